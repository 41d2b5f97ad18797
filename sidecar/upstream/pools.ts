// Every pool of the process, by name. A pool outlives a configuration change that does not concern it, and no
// connection outlives, once idle, the SVID that it was made with.

import { type Address, formatAddress } from '../../cert-agent/base/address.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import type { Limits } from '../exchange/limits.ts';
import type { TlsFacts } from '../exchange/upstream.ts';
import type { TlsSettings } from '../protocol/tls.ts';
import { createPeerDial, dialPlain, serverNameOf } from './dial.ts';
import { Pool } from './pool.ts';
import type { Resolver } from './resolve.ts';
import { createServerTlsDial, type ServerTls } from './server-tls.ts';
import type { TrafficPlan } from './traffic.ts';

/** Peers that run Sallyport keep an idle connection for five minutes; a stranger may not. */
const peerIdleMs = 55_000;
/** Node's own server closes after five seconds, and announces it; one that announces nothing is trusted for less. */
const appIdleMs = 4000;

/** The plan of a pool. */
export interface PoolPlan {
  readonly name: string;
  readonly endpoints: readonly Address[];
  readonly limits: Limits;
  /** It speaks HTTP/2 unless ALPN selects HTTP/1.1: an app, or a peer without ALPN. */
  readonly http2?: boolean;
  /** Balancing, limits, outlier detection; absent: the settings' defaults. */
  readonly traffic?: TrafficPlan;
  /** Present for a server that is no peer, over TLS that proves the server alone. */
  readonly serverTls?: ServerTls;
  /** Present for a peer, over mutual TLS; if it and `serverTls` are absent the connection is plain: our own app. */
  readonly peer?: {
    /** Its name in the configuration. */
    readonly upstream: string;
    /** False for a pool that exists only in case of requests; readiness does not wait for it. */
    readonly isMeant: boolean;
    /** The SPIFFE IDs, one of which it must prove. */
    readonly expected: readonly string[];
    readonly tls: TlsSettings;
    readonly alpn: readonly string[];
  };
}

/** The owner of all pools: nothing else makes or closes one. */
export class Pools {
  readonly #identity: Live<Identity | undefined>;
  readonly #resolver: Resolver;
  readonly #dialed: (tls: TlsFacts) => void;
  readonly #log: Log | undefined;
  #held = new Map<string, { readonly key: string; readonly pool: Pool }>();

  /** `dialed` is called for each handshake with a peer. */
  constructor(identity: Live<Identity | undefined>, resolver: Resolver, dialed: (tls: TlsFacts) => void, log?: Log) {
    this.#identity = identity;
    this.#log = log;
    this.#dialed = dialed;
    this.#resolver = resolver;
    identity.onChange(() => {
      for (const { pool } of this.#held.values()) pool.renew();
    });
  }

  /** The pools of `plans`, by name: unchanged ones stay, the others close. */
  reconcile(plans: readonly PoolPlan[]): ReadonlyMap<string, Pool> {
    const next = new Map<string, { readonly key: string; readonly pool: Pool }>();
    for (const plan of plans) {
      const key = JSON.stringify(plan);
      const known = this.#held.get(plan.name);
      next.set(plan.name, known?.key === key ? known : { key, pool: this.#make(plan) });
    }
    for (const [name, { pool }] of this.#held) if (next.get(name)?.pool !== pool) pool.close();
    this.#held = next;
    return new Map(this.entries());
  }

  /** A copy, by name. */
  entries(): [string, Pool][] {
    return [...this.#held].map(([name, { pool }]) => [name, pool]);
  }

  /** Opens no more connections. Requests in flight go on to their end. */
  close(): void {
    for (const { pool } of this.#held.values()) pool.close();
  }

  #make({ name, endpoints, limits, http2 = false, peer, serverTls, traffic }: PoolPlan): Pool {
    const rest = { endpoints, limits, resolver: this.#resolver, traffic, log: this.#log };
    const told = traffic?.connections?.idleMs;
    if (serverTls !== undefined) {
      const dial = createServerTlsDial({ ...serverTls, dialed: this.#dialed });
      const kind = { secure: true, alpn: serverTls.alpn, http2, awaited: false, idleMs: told ?? appIdleMs };
      return new Pool({ ...rest, ...kind, name, dial });
    }
    if (peer === undefined) {
      const idleMs = told ?? (http2 ? peerIdleMs : appIdleMs);
      const kind = { secure: false, alpn: [], http2, awaited: false, idleMs };
      return new Pool({ ...rest, ...kind, name, dial: dialPlain });
    }
    const dial = createPeerDial({
      ...peer,
      identity: this.#identity,
      serverName: serverNameOf(endpoints[0]!),
      dialed: this.#dialed,
    });
    const { upstream, isMeant } = peer;
    const alpn = traffic?.connections?.http2 === false ? peer.alpn.filter((one) => one !== 'h2') : peer.alpn;
    const kind = { secure: true, alpn, http2, awaited: isMeant, idleMs: told ?? peerIdleMs };
    return new Pool({ ...rest, ...kind, name: upstream, dial });
  }
}

/** The name of an app's pool. */
export function appPoolName(app: Address, http2: boolean): string {
  return `app ${formatAddress(app)}${http2 ? ' http2' : ''}`;
}
