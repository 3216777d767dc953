import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

type XGrammar = typeof import("@mlc-ai/web-xgrammar");

let loaded: XGrammar | undefined;

/**
 * Loads `@mlc-ai/web-xgrammar`, which is written for browsers: its one file is UMD while its package.json says that it is an ES module,
 * so no runtime can import it. So it is run as the CommonJS module that it is.
 */
export function loadXGrammar(): XGrammar {
  if (loaded) return loaded;
  const path = fileURLToPath(import.meta.resolve("@mlc-ai/web-xgrammar"));
  const run = new Function(
    "exports",
    "module",
    "require",
    "__filename",
    "__dirname",
    readFileSync(path, "utf8"),
  );
  const module = { exports: {} };
  run(module.exports, module, createRequire(import.meta.url), path, dirname(path));
  return loaded = module.exports as XGrammar;
}

/** What has aborted is of no use any more: the next call loads it anew. */
export function forgetXGrammar(): void {
  loaded = undefined;
}
