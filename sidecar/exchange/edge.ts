// The nouns of a gateway: what an edge adds to the path of a request. A listener has routes, a route rules, a rule backends;
// what a rule does beside passing on is compiled with it, and an exchange carries the rule that it has matched.

/** What becomes of a message on its way. Each is absent where the rule has no such filter. */
export interface EdgeFilters {
  readonly requestHeaders?: HeaderChange;
  readonly responseHeaders?: HeaderChange;
  readonly rewrite?: Rewrite;
  readonly redirect?: Redirect;
}

/** Set, then add, then remove. Names in lower case where they are compared. */
export interface HeaderChange {
  readonly set: readonly (readonly [string, string])[];
  readonly add: readonly (readonly [string, string])[];
  /** All names that `set` and `remove` take away. */
  readonly taken: ReadonlySet<string>;
}

/** A path in place of another: a whole one, or one for the prefix that the rule matches. */
export type PathChange = { readonly full: string } | { readonly prefix: string; readonly replacement: string };

export interface Rewrite {
  readonly hostname: string | undefined;
  readonly path: PathChange | undefined;
}

export interface Redirect extends Rewrite {
  readonly scheme: 'http' | 'https' | undefined;
  readonly port: number | undefined;
  readonly status: number;
}
