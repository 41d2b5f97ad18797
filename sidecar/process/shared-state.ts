// State that all workers of a gateway share lives in the first one. The others query it over their existing pipe. Each
// capability answers its own queries at once, from plain tables.

/** A capability's part of the first worker's state. */
export interface FirstPart {
  /** Synchronous. The question is of another worker of ours: same version, not checked again. */
  answer(worker: number, question: unknown): unknown;
  /** A worker has ended: what it held is free again. */
  gone?(worker: number): void;
}

/** A query of another worker, as it crosses the pipe. */
export interface StateAsk {
  /** The capability's name. */
  readonly of: string;
  readonly question: unknown;
}

/** The first worker's state, by capability. */
export class FirstState {
  readonly #parts = new Map<string, FirstPart>();

  /** Once for each capability, at the start. */
  serve(of: string, part: FirstPart): void {
    this.#parts.set(of, part);
  }

  /** Answers a worker's query; `null` if no capability serves it. */
  answer(worker: number, { of, question }: StateAsk): unknown {
    return this.#parts.get(of)?.answer(worker, question) ?? null;
  }

  /** A worker has ended: what it held is released. */
  gone(worker: number): void {
    for (const part of this.#parts.values()) part.gone?.(worker);
  }
}
