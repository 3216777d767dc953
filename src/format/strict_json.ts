import { ModelFileError } from "../errors.ts";

/**
 * Parses JSON of a model file and refuses a name that stands twice in one object, where `JSON.parse` would silently
 * take the last. `byteOffset` is where the text begins in the file.
 */
export function parseJson(
  text: string,
  { path, byteOffset }: { path: string; byteOffset: number },
): unknown {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ModelFileError("this is not JSON", { path, field: "header", byteOffset }, { cause });
  }
  const twin = findTwin(text);
  if (twin !== null) {
    throw new ModelFileError(`the name ${twin} stands twice`, {
      path,
      field: "header",
      byteOffset,
    });
  }
  return json;
}

/** The first name that stands twice in one object of sound JSON, or null. */
function findTwin(text: string): string | null {
  const objects: Set<string>[] = [];
  let lastString = "";
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === "{") objects.push(new Set());
    else if (character === "}") objects.pop();
    else if (character === '"') {
      const end = endOfString(text, index);
      lastString = text.slice(index, end);
      index = end - 1;
    } else if (character === ":") {
      const name = JSON.parse(lastString); // As escapes may spell one name in two ways.
      const names = objects[objects.length - 1];
      if (names.has(name)) return lastString;
      names.add(name);
    }
  }
  return null;
}

/** Index after the quotation mark that closes the string which begins at `start`. */
function endOfString(text: string, start: number): number {
  let index = start + 1;
  while (text[index] !== '"') index += text[index] === "\\" ? 2 : 1;
  return index + 1;
}

/** Decodes UTF-8 strictly; throws `ModelFileError`. */
export function decodeText(
  bytes: Uint8Array,
  { path, byteOffset }: { path: string; byteOffset: number },
): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ModelFileError("this is not UTF-8", { path, field: "text", byteOffset }, { cause });
  }
}
