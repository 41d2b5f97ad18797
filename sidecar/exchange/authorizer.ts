// An external authorizer as the path sees it: what it is told, and what it answers.

import type { Fields } from './message.ts';

/** Whom CUSTOM policies may ask. */
export interface Authorizer {
  readonly name: string;
  readonly kind: 'http' | 'grpc';
  /** What the caller gets when there is no answer. */
  readonly statusOnError: number;
  /** Whether it is told of a field, by the name that servers fold (`FieldName.folded`): the app must read no other word there. */
  judges(folded: string): boolean;
  /** @throws SallyportError when there is no answer, or none that can be read. */
  ask(asked: Asked): Promise<Ruling>;
}

/** What an external authorizer said. */
export interface Ruling {
  readonly allowed: boolean;
  /** Refused: the answer to the caller. */
  readonly status: number;
  readonly body: Buffer;
  /** To the caller: with the refusal, or with the app's answer. */
  readonly replyFields: readonly (readonly [string, string])[];
  /** Allowed: what the app's request gets in place of what it had, and what it loses; names in lower case. */
  readonly requestFields: readonly (readonly [string, string])[];
  readonly removed: readonly string[];
}

/** What an external authorizer is told of a request. */
export interface Asked {
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  /** `HTTP/1.1`; empty for TCP. */
  readonly protocol: string;
  readonly fields: Fields;
  readonly source: Party;
  readonly destination: Party;
  readonly sni: string;
  /** Wall clock, milliseconds. */
  readonly time: number;
}

export interface Party {
  readonly address: string;
  readonly port: number;
  readonly principal: string;
}
