// An external authorizer as the path sees it: its input and its result.

import type { Fields } from './message.ts';

/** An authorizer that CUSTOM policies may call. */
export interface Authorizer {
  readonly name: string;
  readonly kind: 'http' | 'grpc';
  /** The status for the caller if the authorizer does not respond. */
  readonly statusOnError: number;
  /**
   * True if it is sent a field, by the name that servers fold (`FieldName.folded`): the app must not read that name in
   * another spelling.
   */
  judges(folded: string): boolean;
  /** @throws SallyportError if there is no response, or an unreadable one. */
  ask(asked: Asked): Promise<Ruling>;
}

/** The result of an external authorizer. */
export interface Ruling {
  readonly allowed: boolean;
  /** Refused: the response to the caller. */
  readonly status: number;
  readonly body: Buffer;
  /** For the caller: with the refusal, or with the app's response. */
  readonly replyFields: readonly (readonly [string, string])[];
  /** Allowed: fields that replace or are removed from the app's request; names in lower case. */
  readonly requestFields: readonly (readonly [string, string])[];
  readonly removed: readonly string[];
}

/** The input of an external authorizer. */
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

/** One end of a connection. */
export interface Party {
  readonly address: string;
  readonly port: number;
  readonly principal: string;
}
