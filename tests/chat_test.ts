import assert from "node:assert/strict";
import { test } from "node:test";
import { ChatTemplate } from "../src/chat_template.ts";
import type { ChatMessage } from "../src/chat_template.ts";
import { conversationWith } from "../src/cli/conversation.ts";
import type { Speaker } from "../src/cli/conversation.ts";

/** As Qwen and many others write conversations ("ChatML"). */
const CHATML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + " +
  "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** As Mistral's: turns are checked, and tokens stand around them. */
const TURNS = "{{ bos_token }}{% for message in messages %}" +
  "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
  "{{ raise_exception('roles must alternate') }}{% endif %}" +
  "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}" +
  "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";

const SAID: ChatMessage[] = [
  { role: "user", content: "Hello" },
  { role: "assistant", content: "Hi" },
  { role: "user", content: "Tell me\na tale" },
];

function template(config: Record<string, unknown>): ChatTemplate {
  return ChatTemplate.of(JSON.stringify(config), "model.flash")!;
}

test("ChatTemplate writes a conversation as the model's template says", () => {
  assert.equal(
    template({ chat_template: CHATML }).render([{ role: "system", content: "Be brief" }, ...SAID]),
    "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n" +
      "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nTell me\na tale<|im_end|>\n" +
      "<|im_start|>assistant\n",
  );
  const tokens = { bos_token: "<s>", eos_token: { content: "</s>", lstrip: false } };
  const wanted = "<s>[INST] Hello [/INST]Hi</s>[INST] Tell me\na tale [/INST]";
  const named = [{ name: "tool_use", template: "x" }, { name: "default", template: TURNS }];
  for (const chat_template of [TURNS, named]) {
    assert.equal(template({ chat_template, ...tokens }).render(SAID), wanted);
  }
});

test("ChatTemplate says what a template refuses, and what is no template", () => {
  const turns = template({ chat_template: TURNS });
  assert.throws(() => turns.render([SAID[0], SAID[0]]), {
    name: "RangeError",
    message: /Cannot write the conversation as the model wants it: .*roles must alternate/,
  });
  assert.throws(() => template({ chat_template: "{% for %}" }), {
    name: "ModelFileError",
    message: /model\.flash: the chat template cannot be read/,
  });
  for (const json of [null, "{}", '{"chat_template":[]}', '{"chat_template":[{"name":"x"}]}']) {
    assert.equal(ChatTemplate.of(json, "model.flash"), null);
  }
});

/** A letter is a token, and a conversation is written with its roles' first letters. */
function speaker(contextLength: number, canChat = true): Speaker {
  const encode = (text: string) => [...text].map((letter) => letter.charCodeAt(0));
  return {
    canChat,
    contextLength,
    encode,
    encodeChat: (messages) =>
      encode(messages.map(({ role, content }) => `${role[0]}(${content})`).join("")),
    decode: (ids) => String.fromCharCode(...ids),
  };
}

test("conversationWith() holds messages, forgets the oldest turns, and begins anew", () => {
  const model = speaker(40);
  const talk = conversationWith(model, { maxTokens: 10, system: "S" });
  const say = (line: string) => {
    const { prompt, forgotten } = talk.say(line);
    return [model.decode(prompt), forgotten];
  };
  assert.deepEqual(say("one"), ["s(S)u(one)", null]);
  talk.answer("1");
  assert.deepEqual(say("two"), ["s(S)u(one)a(1)u(two)", null]);
  talk.answer("2");
  // Thirty letters have room; both messages of a turn go together.
  assert.deepEqual(say("three"), ["s(S)u(two)a(2)u(three)", "2 messages"]);
  talk.answer("3");
  assert.throws(() => talk.say("x".repeat(40)), /makes 47 tokens: there is room for 30/);
  talk.reset();
  assert.deepEqual(say("four"), ["s(S)u(four)", null]);
});

test("conversationWith() lets a text go on where the model has no template", () => {
  const model = speaker(40, false);
  const talk = conversationWith(model, { maxTokens: 10 });
  assert.equal(model.decode(talk.say("Once").prompt), "Once");
  talk.answer(" upon");
  assert.equal(model.decode(talk.say("a time").prompt), "Once upon\na time");
  talk.reset();
  assert.equal(model.decode(talk.say("New").prompt), "New");
});
