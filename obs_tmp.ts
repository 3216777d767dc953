import fs from "node:fs"; import { open } from "./src/mod.ts"; import { chunksOf, documentsOf } from "./src/documents.ts";
for (const lanes of [1,2]) {
let t=performance.now();
{
await using model = await open("/tmp/m/tales.f16.flash",{ffn:"dense",ffnCache:"100%",observations:true,lanes, readers:1});
console.log("open",performance.now()-t); t=performance.now(); let n=0;
for (const ids of chunksOf(documentsOf(fs.readFileSync("models/tales/calibration.txt","utf8")), (x)=>model.encode(x), 512)) { await model.eachObservation(ids,(l,p)=>{n++; }); if (n>4000) break; }
console.log(lanes, n,"tokens",performance.now()-t, JSON.stringify(model.stats().prompt.msPerToken)); } }
