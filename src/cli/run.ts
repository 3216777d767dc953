import { Command } from "commander";
import { readFileSync } from "node:fs";
import process from "node:process";
import type { ChatMessage } from "../chat_template.ts";
import type { Model } from "../model.ts";
import { open } from "../open.ts";
import type { OpenOptions, Prepared } from "../open.ts";
import { forecast, isProbed } from "../forecast/forecast.ts";
import { renderForecast } from "../forecast/render_forecasts.ts";
import { findProbe } from "../probe/kept_probe.ts";
import { AnswerWriter } from "./answer.ts";
import type { Answer, Sampling } from "./answer.ts";
import { chat } from "./chat.ts";
import type { ChatOptions } from "./chat.ts";
import { DEMO_FFN_CACHE, prepareEmbeddedModel } from "./embedded_model.ts";
import { givenFile } from "./given_path.ts";
import { addRunOptions } from "./run_options.ts";
import type { RunOptions } from "./run_options.ts";
import { renderClosing, renderPlan } from "./terminal/closing_block.ts";
import { Interrupt } from "./terminal/interrupt.ts";
import { Progress } from "./terminal/progress.ts";
import { readStandardInput } from "./terminal/standard_input.ts";
import { WholeFile } from "./whole_file.ts";

/** The embedded model would fit in memory at once; so the demo caches this share of its FFN only. */

export function runCommand(): Command {
  return addRunOptions(new Command("run")).action(run);
}

async function run(prompt: string | undefined, options: RunOptions): Promise<void> {
  using interrupt = new Interrupt();
  const isSilent = options.quiet ?? false;
  const note = (text: string) => isSilent ? undefined : process.stderr.write(text);
  if (options.model !== undefined) givenFile(options.model);
  using trace = options.trace === undefined ? undefined : new WholeFile(options.trace);
  const wantsChat = prompt === undefined && process.stdin.isTTY;
  if (wantsChat && options.json) throw new RangeError("Cannot chat with --json: give a prompt");
  const { system } = options, jsonSchema = schemaOf(options.jsonSchema);
  if (system !== undefined && !(wantsChat || options.chat)) {
    throw new RangeError("Cannot tell the model a --system text: that is of chats (--chat)");
  }
  const text = wantsChat ? "" : prompt ?? await readStandardInput(interrupt.signal);
  const path = options.model ??
    await prepareEmbeddedModel({ note, isSilent, signal: interrupt.signal });
  using progress = new Progress({ isSilent });
  await using model = await open(path, {
    ...openOptionsOf(options, note),
    signal: interrupt.signal,
    onProgress: ({ doneBytes: done, totalBytes: total }) =>
      progress.update("loading", { done, total }),
    onPlan: (prepared) => note(renderPlan(prepared.plan) + expectationOf(path, prepared)),
  });
  progress.stop();
  if (model.damaged) {
    note(
      `warning: ${model.path}: ${model.damaged}; the other header is used, without what was added ` +
        "later, such as predictors (flashpipe inspect --verify tells more)\n",
    );
  }
  if (model.header.provenance.synthetic) {
    note("note: synthetic weights, for measuring: the text has no meaning\n");
  }
  const sampling: Sampling = {
    maxTokens: options.maxTokens,
    temperature: options.temperature,
    topK: options.topK,
    topP: options.topP,
    minP: options.minP,
    repetitionPenalty: options.repetitionPenalty,
    logitBias: new Map(options.logitBias),
    stop: options.stop,
    jsonSchema,
    seed: options.seed ?? Math.floor(Math.random() * 2 ** 31),
  };
  if (system !== undefined && !model.canChat) {
    throw new RangeError(`Cannot tell the model a --system text: ${path} has no chat template`);
  }
  if (wantsChat) await chat({ model, sampling, interrupt, system, note });
  else await answerOnce(text, { model, sampling, interrupt, system, note }, options);
  trace?.finish(model.traceJson());
}

function schemaOf(path: string | undefined): string | undefined {
  return path === undefined ? undefined : readFileSync(givenFile(path), "utf8");
}

/** What the run is expected to cost, where a probe is kept that can say so; a run does not wait for one. */
function expectationOf(path: string, prepared: Prepared): string {
  const { probe } = findProbe(path);
  if (!probe || !isProbed(prepared, probe)) return "";
  const { contextLength } = prepared.settings.wishes;
  return renderForecast(forecast(prepared, probe, { position: Math.min(128, contextLength - 1) }));
}

/** Goes on from one prompt; the statistics come also when it was interrupted. */
async function answerOnce(
  prompt: string,
  { model, sampling, interrupt, system, note }: ChatOptions,
  { json = false, quiet, chat: isMessage = false }: RunOptions,
): Promise<void> {
  const writer = new AnswerWriter(model, interrupt, { isSilent: json, isQuiet: quiet });
  // So that the whole text can be read at a terminal; stdout has what is new only.
  if (!json && !isMessage && process.stdout.isTTY) note(prompt);
  const answer = await writer.write(
    isMessage ? model.encodeChat(messagesOf(prompt, system)) : prompt,
    sampling,
  );
  writer.reportInterrupt();
  if (json) process.stdout.write(resultOf(model, answer));
  note(`\n${renderClosing(answer.closing)}`);
}

function messagesOf(content: string, system: string | undefined): ChatMessage[] {
  const user = { role: "user", content };
  return system === undefined ? [user] : [{ role: "system", content: system }, user];
}

function openOptionsOf(options: RunOptions, note: (text: string) => void): OpenOptions {
  const { memory, ffn, recall, sparsity, policy, window, context, prefetch, audit } = options;
  const { backend, readers, lanes, kernels, kv, promptChunk, drafts } = options;
  let { ffnCache } = options;
  if (options.model === undefined && memory === undefined && ffnCache === undefined) {
    ffnCache = DEMO_FFN_CACHE;
    note(
      "The embedded model is so small that it would fit in memory: to show how larger ones run, " +
        "20 % of its FFN is cached (--ffn-cache 20%) and the rest is read from flash.\n",
    );
  }
  const trace = options.trace !== undefined;
  const threads = { backend, readers, lanes, kernels };
  const mode = { ffn, recall, sparsity, policy, window, audit, kv, promptChunk, drafts };
  return { memory, ffnCache, ...mode, ...threads, context, prefetch, trace };
}

/** What `--json` writes. */
function resultOf(model: Model, { text, closing }: Answer): string {
  const { path, plan, disk, contextLength, earlyLook } = model;
  const { tokenCount, endReason, temperature, seed, statistics } = closing;
  const result = {
    model: path,
    text,
    tokenCount,
    endReason,
    temperature,
    seed,
    contextLength,
    earlyLook,
    isResident: plan.isResident,
    memory: plan.bytes,
    disk,
    statistics,
  };
  return `${JSON.stringify(result)}\n`;
}
