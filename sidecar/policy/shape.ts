// What a rule asks, as it is compiled: checks, and what has to hold of them.

import type { Attribute, Holds, ValueScope } from './attributes.ts';
import type { RequestFacts } from './facts.ts';

/** One field of a rule with its values: the smallest thing that can hold or fail. */
export class Check {
  /** The field as the document writes it: `paths`, `notPaths`, `when request.headers[x]`. */
  readonly field: string;
  readonly values: readonly string[];
  readonly negated: boolean;
  readonly attribute: Attribute;
  readonly #scope: ValueScope;
  #match: Holds | undefined = undefined;

  constructor(field: string, values: readonly string[], negated: boolean, attribute: Attribute, scope: ValueScope) {
    this.field = field;
    this.values = values;
    this.negated = negated;
    this.attribute = attribute;
    this.#scope = scope;
  }

  /** A negation holds where the attribute is absent: nothing matches it. */
  holds(facts: RequestFacts): boolean {
    this.#match ??= this.attribute.compile(this.values, this.#scope);
    return this.#match(facts) !== this.negated;
  }

  /** Compiles ahead what the first request would otherwise wait for. */
  prepare(): void {
    this.#match ??= this.attribute.compile(this.values, this.#scope);
  }
}

/** Checks that must all hold. */
export type Clause = readonly Check[];

/**
 * A rule's condition: one of the sources, one of the operations, all of the `when` conditions. Undefined means 'any'.
 */
export interface Shape {
  readonly sources: readonly Clause[] | undefined;
  readonly operations: readonly Clause[] | undefined;
  readonly conditions: Clause;
}
