import { FlashFile } from "./src/format/flash_file.ts"; import { divideSlots, missesAt } from "./src/cache/divide_slots.ts";
using f=FlashFile.open("/tmp/m/tales.f16.flash"); const c=f.header.predictors!.missCurves;
const s=divideSlots({curves:c,totalSlots:1229,minSlotsPerLayer:8,count:1024}); console.log(s, c.map((k,i)=>missesAt(k,s[i]).toFixed(1)).join(" "), c.reduce((a,k,i)=>a+missesAt(k,s[i]),0));
for (const k of c) console.log(k.slots.map((x,i)=>x+":"+k.missesPerToken[i].toFixed(1)).join(" "));
