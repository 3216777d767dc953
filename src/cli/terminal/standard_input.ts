import process from "node:process";

/** No context takes more text than this. */
const BYTES_MAX = 16 * 2 ** 20;

/** All of standard input as a prompt, without the line break at its end. */
export async function readStandardInput(signal: AbortSignal): Promise<string> {
  const { stdin } = process;
  const stop = () => stdin.destroy();
  signal.addEventListener("abort", stop);
  const decoder = new TextDecoder();
  let text = "", byteLength = 0;
  try {
    for await (const chunk of stdin as AsyncIterable<Uint8Array>) {
      byteLength += chunk.byteLength;
      if (byteLength > BYTES_MAX) {
        throw new RangeError("Cannot take a prompt of more than 16 MiB from standard input");
      }
      text += decoder.decode(chunk, { stream: true });
    }
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
  signal.throwIfAborted();
  text += decoder.decode();
  if (text.trim() === "") {
    throw new RangeError("Cannot find a prompt: none was given, and standard input is empty");
  }
  return text.replace(/\r?\n$/, "");
}
