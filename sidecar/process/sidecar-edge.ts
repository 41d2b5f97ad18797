// The capabilities of a sidecar whose sidecar.yaml configures one. Other sidecars load nothing from edge/.

import { isDeepStrictEqual } from 'node:util';
import type { Page } from '../../cert-agent/base/admin.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { compileSidecarHooks } from '../compile/sidecar-hooks.ts';
import type { SidecarRules } from '../compile/sidecar-ports.ts';
import type { Settings } from '../config/settings.ts';
import { capabilities } from '../edge/capabilities.ts';
import type { AnyCapability } from '../edge/capability.ts';
import { Jwks } from '../tokens/jwks.ts';
import { type ShareOptions, type Shares, shareAll } from './share.ts';

type Table = readonly AnyCapability[];

/** The capabilities of a running sidecar. Started once. */
export class SidecarEdge {
  readonly #shares: Shares;
  readonly #log: Log;
  readonly #table: Table;
  /** The last compiled rules, and their settings. */
  #last: { readonly settings: Settings; readonly rules: SidecarRules } | undefined = undefined;

  constructor(shares: Shares, log: Log, table: Table) {
    this.#shares = shares;
    this.#log = log;
    this.#table = table;
  }

  /** Undefined in a worker that is not the first. */
  get first(): Shares['first'] {
    return this.#shares.first;
  }

  /**
   * The rules of all ports; the same object if what they are compiled from is unchanged.
   * @throws SallyportError `config_invalid`.
   */
  compile(settings: Settings): SidecarRules {
    if (this.#last !== undefined && isSame(this.#last.settings, settings)) return this.#last.rules;
    const rules = compileSidecarHooks(
      settings,
      {
        sharedOf: (name) => this.#shares.made.get(name),
        warn: (message) => this.#log.warn({ code: 'policy_warning' }, message),
      },
      this.#table,
    );
    this.#last = { settings, rules };
    return rules;
  }

  /** Pages of the admin port. */
  pages(): readonly Page[] {
    return this.#table
      .filter(isOfSidecars)
      .flatMap(({ name, pages }) => pages?.(this.#shares.made.get(name) as never) ?? []);
  }

  close(): void {
    this.#shares.close();
  }
}

/** Compares the settings that the compiler reads. */
function isSame(before: Settings, now: Settings): boolean {
  const of = ({ capabilities: plans, inbound, outbound }: Settings) => [plans, inbound, outbound];
  return isDeepStrictEqual(of(before), of(now));
}

/** Starts the capabilities that have a field in sidecar.yaml. */
export async function startSidecarEdge(options: ShareOptions, table: Table = capabilities): Promise<SidecarEdge> {
  return new SidecarEdge(await shareAll(table.filter(isOfSidecars), options), options.log, table);
}

/** Compiles without serving. `warn` gets what has no effect. @throws SallyportError `config_invalid` for plans that a sidecar cannot serve. */
export function checkSidecarEdge(
  settings: Settings,
  table: Table = capabilities,
  warn: (message: string) => void = () => {},
): void {
  const jwks = new Jwks(undefined);
  const dry = { keysOf: jwks.sourceOf.bind(jwks), hasRedis: false };
  const made = new Map(table.filter(isOfSidecars).map(({ name, shareDry }) => [name, shareDry?.(dry)]));
  compileSidecarHooks(settings, { sharedOf: (name) => made.get(name), warn }, table);
}

function isOfSidecars({ fields }: AnyCapability): boolean {
  return fields.some(({ kind }) => kind === 'sidecar.yaml');
}
