import { Template } from "@huggingface/jinja";
import { messageOf, ModelFileError } from "./errors.ts";

/** One part of a conversation; `role`: what the model's template knows, mostly `system`, `user` and `assistant`. */
export interface ChatMessage {
  role: string;
  content: string;
}

/** What tokenizer_config.json says about chats. Tokens may be texts, or objects that hold one. */
interface TemplateConfig {
  chat_template?: unknown;
  bos_token?: unknown;
  eos_token?: unknown;
}

/** How a model wants conversations written: the Jinja template that it came with. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: { bos_token: string; eos_token: string };

  constructor(source: string, tokens: { bos_token: string; eos_token: string }) {
    this.#template = new Template(source);
    this.#tokens = tokens;
  }

  /**
   * The template of a tokenizer_config.json; null where there is none. Of several the one that is named `default`.
   *
   * @throws {ModelFileError} it is no Jinja that we can read
   */
  static of(configJson: string | null, path: string): ChatTemplate | null {
    const config: TemplateConfig = JSON.parse(configJson ?? "{}");
    const source = sourceOf(config.chat_template);
    if (source === null) return null;
    const tokens = { bos_token: tokenOf(config.bos_token), eos_token: tokenOf(config.eos_token) };
    try {
      return new ChatTemplate(source, tokens);
    } catch (cause) {
      const place = { path, field: "tokenizer.config.chat_template", byteOffset: 0 };
      throw new ModelFileError(`the chat template cannot be read: ${messageOf(cause)}`, place, {
        cause,
      });
    }
  }

  /**
   * The text of a conversation, up to where the model is to answer.
   *
   * @throws {RangeError} the template refuses the conversation, such as two messages of one role in a row
   */
  render(messages: readonly ChatMessage[]): string {
    try {
      return this.#template.render({
        messages: messages.map(({ role, content }) => ({ role, content })),
        add_generation_prompt: true,
        ...this.#tokens,
      });
    } catch (cause) {
      const problem = `Cannot write the conversation as the model wants it: ${messageOf(cause)}`;
      throw new RangeError(problem, { cause });
    }
  }
}

/** A template, or a list of named ones. */
function sourceOf(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  const named = value.find((each) => each?.name === "default");
  return typeof named?.template === "string" ? named.template : null;
}

function tokenOf(value: unknown): string {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : "";
}
