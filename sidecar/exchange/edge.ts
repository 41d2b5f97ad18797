// The nouns of a gateway: what an edge adds to the path of a request. A listener has routes, a route rules, a rule backends;
// what a rule does beside passing on is compiled with it, and an exchange carries the rule that it has matched.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Permit } from '../policy/policy.ts';
import type { Authorizer } from './authorizer.ts';
import type { ConnectionFacts, Exchange } from './exchange.ts';
import type { FieldName, Fields } from './message.ts';
import type { Route } from './upstream.ts';

/** One rule of a route. Frozen, and made when the documents are compiled. */
export interface EdgeRule {
  /** `route_name` of the access log: `httproute/shop/orders/rule/0`. */
  readonly name: string;
  /** What it answers whatever is asked, because it, or a policy that is attached to it, cannot be served as it was meant. */
  readonly broken: SallyportError | undefined;
  readonly filters: EdgeFilters;
  readonly permit: Permit;
  readonly guard: EdgeGuard | undefined;
  /** Whom the guard's `extAuth` asks, beside it. */
  readonly authorizer: Authorizer | undefined;
  readonly limits: EdgeLimits | undefined;
  /** Which of its backends this exchange gets; undefined where the rule needs none. */
  backendFor(exchange: Exchange): Route | undefined;
}

/** Who may, by the SecurityPolicy that is attached. */
export interface EdgeGuard {
  /** What of it is compared with the next guard. */
  readonly known: EdgeKnown;
  /** Whether somebody who came in under another guard, or none, is still known under this one. */
  knows(exchange: Exchange, before: EdgeGuard | undefined): boolean;
  /** Fills in who is calling. @throws SallyportError when nobody good is. */
  authenticate(exchange: Exchange, connection: ConnectionFacts): undefined | Promise<void>;
  /** @throws SallyportError `policy_denied`. */
  authorize(exchange: Exchange, connection: ConnectionFacts): void;
}

/** By what a guard knows callers, once their credentials are gone from their requests. */
export interface EdgeKnown {
  /** What stands for the credential of a client, and changes when that does. */
  credentialOf(clientId: string): string | undefined;
  /** By part of the policy: what it says, as a digest. */
  readonly sayings: ReadonlyMap<string, string>;
}

/** How much, by the BackendTrafficPolicy that is attached. */
export interface EdgeLimits {
  /** @throws SallyportError `rate_limited` or `concurrency_limited`. */
  take(exchange: Exchange, connection: ConnectionFacts): undefined | Promise<void>;
}

/** What becomes of a message on its way. Each is absent where the rule has no such filter. */
export interface EdgeFilters {
  readonly requestHeaders?: HeaderChange;
  readonly responseHeaders?: HeaderChange;
  readonly rewrite?: Rewrite;
  readonly redirect?: Redirect;
  readonly cors?: Cors;
  readonly mirrors?: readonly Mirror[];
  /** Codings in the order of preference, for answers that gain by it. */
  readonly compression?: readonly Coding[];
  /** A request's body is here in full before anything of it goes on, and has no more bytes than this. */
  readonly bufferBytes?: number;
}

/** Content codings that we make (RFC 9110 section 8.4.1). */
export type Coding = 'br' | 'gzip';

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

export interface Cors {
  /** What a preflight is answered with. */
  readonly preflight: (exchange: Exchange) => [string, string][];
  readonly allowsOrigin: (origin: string) => boolean;
  readonly anyOrigin: boolean;
  readonly credentials: boolean;
  /** `*` among them stands for all. */
  readonly methods: readonly string[];
  readonly headers: readonly string[];
  readonly expose: readonly string[];
  readonly maxAgeS: number;
}

export interface Mirror {
  readonly route: Route;
  /** Of the requests, from 0 to 1. */
  readonly share: number;
}

/** What one port of a gateway serves, under one generation. */
export interface Edge {
  /** The listener whose host name this is, the most precise one, and its rule for the request, if there is one. Refuses nothing. */
  find(exchange: Exchange): Found;
  /** Headers, in lower case, in which the policy of any rule says who a caller is: from outside nobody says that, on no route. */
  readonly ownHeaders: ReadonlySet<string>;
  /** Headers, in lower case, that any policy names: they are judged in heads, and do not pass in trailers. */
  readonly namedHeaders: ReadonlySet<string>;
  /** Whether a client may set a field that is a proxy's to set: `unsafeClientHeaders` of gateway.yaml. */
  mayClientSet(name: FieldName): boolean;
  /** Of the policies of all rules: a credential that was sent to the wrong route is one all the same. */
  readonly secrets: EdgeSecrets;
  /** What the answers of this port carry beside what the backend says. */
  readonly replies: EdgeReplies;
}

/** Where credentials stand in a target: not for a log. */
export interface EdgeSecrets {
  /** Parameters of the query. */
  readonly params: readonly string[];
  /** Paths whose query is a credential as a whole. */
  readonly paths: ReadonlySet<string>;
}

export interface Found {
  /** Undefined: no listener has that name. */
  readonly listener: string | undefined;
  readonly rule: EdgeRule | undefined;
}

export interface EdgeReplies {
  /** `strict-transport-security` and its like; undefined where they are not switched on. */
  readonly securityHeaders: Fields | undefined;
  /** Pages in place of our own words, by status. */
  readonly errorPages: ReadonlyMap<number, Buffer>;
}
