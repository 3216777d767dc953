import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

type XGrammar = typeof import("@mlc-ai/web-xgrammar");

let loaded: Promise<XGrammar> | undefined;

/**
 * Loads `@mlc-ai/web-xgrammar`, which is written for browsers: its one file is UMD while its package.json says that it is an ES module,
 * so no runtime can import it. So it is run as the CommonJS module that it is.
 */
export function loadXGrammar(): Promise<XGrammar> {
  return loaded ??= load();
}

async function load(): Promise<XGrammar> {
  const path = fileURLToPath(import.meta.resolve("@mlc-ai/web-xgrammar"));
  const source = readFileSync(path, "utf8");
  const run = new Function("exports", "module", "require", "__filename", "__dirname", source);
  const module = { exports: {} };
  run(module.exports, module, createRequire(import.meta.url), path, dirname(path));
  const xgrammar = module.exports as XGrammar;
  // Its WebAssembly is made by the first call: two at once would make it twice.
  (await xgrammar.Grammar.builtinJSONGrammar()).dispose();
  return xgrammar;
}

/** What has aborted is of no use any more: the next call loads it anew. */
export function forgetXGrammar(): void {
  loaded = undefined;
}
