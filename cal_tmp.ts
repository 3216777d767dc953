import fs from "node:fs"; import process from "node:process"; import { calibrate } from "./src/calibrate.ts";
let t=performance.now(); let ph="";
const p=await calibrate({path:process.argv[2], text:fs.readFileSync("models/tales/calibration.txt","utf8"), textName:"calibration.txt", onProgress:(x)=>{ if(x.phase!==ph){console.log(ph,performance.now()-t); ph=x.phase;} }});
console.log(performance.now()-t); for (const l of p.layers) console.log(l.rank,l.recall.toFixed(4),l.predictedShare.toFixed(4),l.activeShare.toFixed(4));
