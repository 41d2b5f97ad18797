// Puts each generation of the configuration in force, one after the other: pools, then the rules of each port, then the
// ports that came or went. It warns about documents that are valid but probably not what the operator meant.

import { reasonOf } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { compileDocuments, type Judgement, type Keys } from '../compile/policies.ts';
import { compilePorts, planPools, trafficOf } from '../compile/sidecar-ports.ts';
import { ofUnknownProviders } from '../compile/unknown-providers.ts';
import type { Configuration } from '../config/watch.ts';
import type { ConnectionTable } from '../connection.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import type { Shadow } from '../observe/dry-run.ts';
import type { TokenObserver } from '../policy/jwt.ts';
import { displacedMtls } from '../policy/mtls.ts';
import type { Jwks } from '../tokens/jwks.ts';
import type { Pools } from '../upstream/pools.ts';
import type { RunningGateway } from './gateway.ts';
import type { Ports } from './ports.ts';
import type { SidecarEdge } from './sidecar-edge.ts';
import type { WorkerLink } from './worker-link.ts';
import type { Workers } from './workers.ts';

/** What a generation is compiled with, and what it is put into. */
export interface GenerationParts {
  readonly log: Log;
  readonly jwks: Jwks;
  readonly observeToken: TokenObserver;
  readonly shadow: Shadow;
  readonly table: ConnectionTable;
  readonly pools: Pools;
  readonly ports: Ports;
  /** Undefined in a sidecar. */
  readonly gateway: RunningGateway | undefined;
  /** The capabilities of a sidecar, loaded by the first call. */
  edge(): Promise<SidecarEdge>;
  /** In the first of several workers: the others. */
  readonly workers: Workers | undefined;
  /** In another worker: the link to the first. */
  readonly link: WorkerLink | undefined;
  /** The newest accepted configuration. */
  current(): Configuration;
  /** Runs after each generation except the first. */
  applied(): Promise<void>;
}

/** The generations of one process. `begin` comes first, then `follow` for each change. */
export class Generations {
  readonly #parts: GenerationParts;
  /** The documents compiled last; undefined before the first. */
  #judgement: Judgement | undefined = undefined;
  /** The dry-run policies, as text. */
  #dryRun = '';
  #inForce = 0;
  #applying: Promise<void> = Promise.resolve();

  constructor(parts: GenerationParts) {
    this.#parts = parts;
  }

  /** The number of the generation that the ports have; 0 before the first. */
  get inForce(): number {
    return this.#inForce;
  }

  /** Puts the first generation in force. @throws SallyportError `port_in_use` or `listen_failed`. */
  begin(): Promise<void> {
    const begun = this.#apply(this.#parts.current(), true);
    this.#applying = begun;
    return begun;
  }

  /**
   * Puts a generation in force after those before it, so that no newer one is overtaken by one that takes longer.
   * Errors are logged.
   */
  follow(next: Configuration): void {
    const { log, applied } = this.#parts;
    this.#applying = this.#applying
      .then(() => this.#apply(next, false))
      .then(applied)
      .catch((error: unknown) => log.error({ code: 'internal' }, reasonOf(error)));
  }

  /**
   * A gateway's worker that is not the first waits until the first has the same documents in force, and is called again
   * then. If it decided alone, from the files that it finds when it starts, it could give one tenant what another has
   * in force at the first.
   */
  async #apply(configuration: Configuration, atStart: boolean): Promise<void> {
    const { log, jwks, gateway, workers, shadow, ports, pools, current } = this.#parts;
    if (configuration !== current()) return;
    const link = gateway === undefined ? undefined : this.#parts.link;
    const owners = link?.ownersFor(configuration.digest);
    if (link !== undefined && owners === undefined) return;
    const { settings, documents, digest } = configuration;
    warnOfUnknownProviders(configuration, log);
    for (const message of displacedMtls(documents.peerAuthentications, settings))
      log.warn({ code: 'policy_displaced' }, message);
    const dryRun = dryRunText(documents);
    if (dryRun !== this.#dryRun) shadow.restart();
    this.#dryRun = dryRun;
    this.#judgement = await compileDocuments(documents, settings, this.#keys(), this.#judgement, this.#peers());
    warnOfUnusedRules(configuration, log);
    const ofCapabilities =
      settings.capabilities === undefined ? undefined : (await this.#parts.edge()).compile(settings);
    const plan = gateway?.plan(configuration, Date.now(), owners);
    const byName = pools.reconcile([...planPools(settings, documents.destinationRules), ...(plan?.pools ?? [])]);
    const plans = [
      ...compilePorts(configuration, this.#judgement, byName, ofCapabilities),
      ...(gateway?.compile(configuration, byName) ?? []),
    ];
    const ofMesh = documents.requestAuthentications.flatMap(({ jwtRules }) => jwtRules);
    jwks.keepOnly([...ofMesh, ...(gateway?.jwtRules() ?? [])]);
    await ports.apply(plans, atStart);
    this.#inForce = configuration.generation;
    if (gateway !== undefined && digest !== undefined)
      workers?.follow({ what: 'inForce', digest, owners: gateway.owners() });
  }

  #keys(): Keys {
    const { jwks, observeToken } = this.#parts;
    return { sourceOf: (rule) => jwks.sourceOf(rule), observe: observeToken };
  }

  /** The SPIFFE ID of each connected peer, once. */
  #peers(): Set<string> {
    return new Set([...this.#parts.table].map(({ peer }) => peer?.id.uri ?? ''));
  }
}

/**
 * CUSTOM policies of an unknown provider refuse every request they match: the operator should learn it from us first.
 */
function warnOfUnknownProviders({ settings, documents }: Configuration, log: Log): void {
  for (const { namespace, name, provider } of ofUnknownProviders(documents.authorizationPolicies, settings))
    log.warn(
      { code: 'provider_unknown', policy: `${namespace}/${name}`, hint: "name it under 'extensionProviders'" },
      `there is no extension provider '${provider}': ${namespace}/${name} refuses every request it matches`,
    );
}

/** A limit that applies to nothing is probably a mistake. */
function warnOfUnusedRules({ settings, documents }: Configuration, log: Log): void {
  for (const { rule, why } of trafficOf(settings, documents.destinationRules).unused)
    log.warn(
      { code: 'destination_rule_unused', rule: `${rule.namespace}/${rule.name}`, file: rule.file, line: rule.line },
      `DestinationRule ${rule.namespace}/${rule.name} changes nothing here: ${why}`,
    );
}

/** When the dry-run policies change, what was observed before says nothing about them. */
function dryRunText({ authorizationPolicies }: IstioDocuments): string {
  return JSON.stringify(authorizationPolicies.filter(({ dryRun }) => dryRun));
}
