// The thread of thread.ts: it screens bodies, and does nothing else.

import { parentPort } from 'node:worker_threads';
import { type BodyResult, compileRules, type Rules, Screening } from './screen.ts';

/** Crosses to the thread by structured cloning. `id` is chosen by the sender, and returned. */
export interface ScreenQuestion {
  readonly id: number;
  readonly body: Uint8Array;
  readonly contentType: string | undefined;
  readonly path: string;
  readonly rules: Rules;
}

/** One for each request, in the same order. */
export interface ScreenAnswer {
  readonly id: number;
  readonly result: BodyResult;
}

/** The rules of the last request, which the next one usually shares. */
let last: { readonly text: string; readonly compiled: ReturnType<typeof compileRules> } | undefined;

parentPort?.on('message', ({ id, body, contentType, path, rules }: ScreenQuestion) => {
  const text = JSON.stringify(rules);
  if (last?.text !== text) last = { text, compiled: compileRules(rules) };
  const screening = new Screening(last.compiled, path);
  const isRead = screening.takeBody(Buffer.from(body.buffer, body.byteOffset, body.byteLength), contentType);
  const answer: ScreenAnswer = { id, result: { hits: screening.hits, spent: screening.spent, isRead } };
  parentPort?.postMessage(answer);
});
parentPort?.postMessage('ready');
