import fs from "node:fs"; import process from "node:process";
import { open } from "./src/mod.ts";
const [file, ffn="dense", cache="100%"] = process.argv.slice(2);
const isOpt = file.startsWith("opt");
const golden = JSON.parse(fs.readFileSync(isOpt?"tests/fixtures/opt/golden.json":"models/tales/golden.json","utf8"));
{
await using model = await open(`/tmp/m/${file}.flash`, { ffn: ffn as any, ffnCache: cache, lanes: Number(process.argv[5]??1) });
const prompts = isOpt ? [{...golden, logits_after_prompt: golden.last_logits}] : golden.prompts;
for (const p of prompts) {
  const l = await model.logits(p.input_ids); const v=model.header.config.vocabSize;
  const last = l.subarray(l.length-v); let max=0, big=0; for (let i=0;i<v;i++){ max=Math.max(max,Math.abs(last[i]-p.logits_after_prompt[i])); big=Math.max(big,Math.abs(p.logits_after_prompt[i]));}
  const got:number[]=[]; for await (const t of model.generate(p.input_ids,{maxTokens:p.greedy_ids.length,ignoreEos:true})) got.push(t.id);
  const div = got.findIndex((id,i)=>id!==p.greedy_ids[i]);
  console.log(file, ffn, cache, "maxdiff", max.toExponential(2), "of", big.toFixed(2), "greedy", got.length, div<0?"equal":`diverges at ${div}`);
}
const s=model.stats(); console.log(JSON.stringify(s.decode));
}
