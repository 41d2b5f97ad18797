// The thread of bcrypt-thread.ts: it compares a password with a hash, and does nothing else.

import { parentPort } from 'node:worker_threads';
import { compareSync } from 'bcryptjs';
import { isApr1, matchesApr1 } from './apr1.ts';

/** Crosses to the thread by structured cloning. `id` is chosen by the sender, and returned. */
export interface BcryptQuestion {
  readonly id: number;
  readonly password: string;
  readonly hash: string;
}

/** One for each question, in the same order. */
export interface BcryptAnswer {
  readonly id: number;
  readonly right: boolean;
}

parentPort?.on('message', ({ id, password, hash }: BcryptQuestion) => {
  const answer: BcryptAnswer = { id, right: isApr1(hash) ? matchesApr1(password, hash) : compareSync(password, hash) };
  parentPort?.postMessage(answer);
});
