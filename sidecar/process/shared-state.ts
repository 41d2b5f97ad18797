// State that is one for all workers of a gateway lives in the first. The others ask it over the pipe that they have anyway. Each
// capability answers its own questions, from plain tables, at once.

/** One capability's part of the first worker's state. */
export interface FirstPart {
  answer(worker: number, question: unknown): unknown;
  /** A worker has ended: what it held is free again. */
  gone?(worker: number): void;
}

/** A question of another worker, as it crosses the pipe. */
export interface StateAsk {
  /** The capability. */
  readonly of: string;
  readonly question: unknown;
}

export class FirstState {
  readonly #parts = new Map<string, FirstPart>();

  serve(of: string, part: FirstPart): void {
    this.#parts.set(of, part);
  }

  /** Answers worker `worker`; `null` where nothing answers. */
  answer(worker: number, { of, question }: StateAsk): unknown {
    return this.#parts.get(of)?.answer(worker, question) ?? null;
  }

  gone(worker: number): void {
    for (const part of this.#parts.values()) part.gone?.(worker);
  }
}
