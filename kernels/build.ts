/**
 * Compiles the AssemblyScript kernels: `kernels/build/relaxed.wasm` and, for runtimes without relaxed SIMD,
 * `kernels/build/plain.wasm`, from one source.
 *
 *   deno task kernels            what the engine runs
 *   deno task kernels --debug    the same files, with names, and with assertions on what the kernels are called with
 *
 * (The compiler asks whether it runs under CI, hence `--allow-env=CI`.)
 */
import fs from "node:fs";
import process from "node:process";
import asc from "assemblyscript/asc";

const KERNELS = new URL("./", import.meta.url);

const FEATURES = {
  relaxed: "simd,threads,relaxed-simd",
  plain: "simd,threads",
} as const;

const OPTIONS = [
  ["--importMemory", "--sharedMemory", "--initialMemory", "1", "--maximumMemory", "65536"],
  ["--runtime", "stub", "--use", "abort=", "--noColors"],
].flat();

// Level 1: what is unrolled by hand stays as it is. Up to 1.5 times faster in Bun than level 3.
const RELEASE = ["--optimizeLevel", "1", "--shrinkLevel", "0", "--noAssert"];
const DEBUG = ["--debug"];

async function compile(build: keyof typeof FEATURES, options: readonly string[]): Promise<void> {
  const args = ["index.ts", "--outFile", `build/${build}.wasm`, "--enable", FEATURES[build]];
  const { error, stderr } = await asc.main([...args, ...OPTIONS, ...options], {
    readFile: (path: string) => {
      const url = new URL(path, KERNELS);
      return fs.existsSync(url) ? fs.readFileSync(url, "utf8") : null;
    },
    writeFile: (path: string, contents: string | Uint8Array) => {
      fs.writeFileSync(new URL(path, KERNELS), contents);
    },
    listFiles: () => [],
  });
  if (error !== null) {
    throw new Error(`Cannot compile the kernels: ${error.message}\n${stderr.toString()}`);
  }
}

fs.mkdirSync(new URL("build/", KERNELS), { recursive: true });
for (const build of ["relaxed", "plain"] as const) {
  await compile(build, process.argv.includes("--debug") ? DEBUG : RELEASE);
}
