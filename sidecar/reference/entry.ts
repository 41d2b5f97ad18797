// One entry of a table of names: an environment variable, an error code, a metric, a field of the log.

/** Texts are ready to print. */
export interface Entry {
  readonly name: string;
  readonly description: string;
  readonly facts: readonly (readonly [label: string, value: string])[];
}

/** A table of names. Its entries are made when they are asked for. */
export interface Table {
  readonly name: string;
  readonly description: string;
  entries(): Promise<readonly Entry[]>;
}
