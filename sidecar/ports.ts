// The ports of a sidecar: planned by the configuration, bound as soon as what they need is there, given new rules when it
// changes. What cannot be bound waits and says so.

import { asSallyportError, type SallyportError } from '../cert-agent/base/errors.ts';
import { type Live, LiveCell } from '../cert-agent/base/live.ts';
import type { Log } from '../cert-agent/base/log.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import type { PortPlan } from './config/generation.ts';
import type { ConnectionTable, Port } from './connection.ts';
import type { PortRules } from './exchange.ts';
import { type Listener, startInboundListener, startOutboundListener } from './listener.ts';
import type { TlsSettings } from './protocol/tls.ts';
import type { ProxyTools } from './proxy.ts';

export interface PortsOptions {
  readonly table: ConnectionTable;
  readonly tools: ProxyTools;
  readonly log: Log;
  readonly identity: Live<Identity | undefined>;
  readonly trustDomain: string;
  readonly tls: TlsSettings;
  /** Whether other processes listen on the same ports. */
  readonly shared: boolean;
  /** True once nobody new is to come in. */
  draining(): boolean;
}

/** A port that is planned: bound already, or waiting for what it needs. */
interface OpenPort {
  readonly port: Port & { readonly rules: LiveCell<PortRules> };
  plan: PortPlan;
  listener: Listener | undefined;
  problem: SallyportError | undefined;
  busy: boolean;
  closed: boolean;
}

export class Ports {
  readonly #options: PortsOptions;
  readonly #open = new Map<string, OpenPort>();

  constructor(options: PortsOptions) {
    this.#options = options;
  }

  /**
   * New rules for the ports that stay, then those that came or went. With `strict`, at the start, a port that is taken is an
   * error that waiting does not mend; later the old ports go on. @throws SallyportError `port_in_use` or `listen_failed`.
   */
  async apply(plans: readonly PortPlan[], strict: boolean): Promise<void> {
    const wanted = new Set(plans.map((plan) => plan.key));
    for (const [key, open] of this.#open) {
      if (wanted.has(key)) continue;
      open.closed = true;
      open.listener?.close();
      this.#open.delete(key);
      this.#options.log.info({ code: 'port_closed', port: key }, `${key} is not in the configuration any more`);
    }
    for (const plan of plans) {
      const known = this.#open.get(plan.key);
      if (known === undefined) await this.#add(plan, strict);
      else {
        known.plan = plan;
        known.port.rules.set(plan.rules);
      }
    }
  }

  /** Binds what waited and may be possible now. */
  async bindWaiting(): Promise<void> {
    for (const open of this.#open.values()) await this.#bind(open);
  }

  /** What each port that is not bound waits for. */
  waitingFor(): string[] {
    return [...this.#open.values()].flatMap(({ port, listener, problem }) => {
      if (listener !== undefined) return [];
      return problem === undefined ? `port ${port.key} (no SVID yet)` : `port ${port.key}: ${problem.message}`;
    });
  }

  /** Takes nobody new in this direction. */
  close(direction: PortRules['direction']): void {
    for (const { port, listener } of this.#open.values())
      if (port.rules.current().direction === direction) listener?.close();
  }

  describe(): object[] {
    return [...this.#open.values()].map(({ port, listener }) => ({
      port: port.key,
      bound: listener?.number ?? null,
      mtls: port.rules.current().mtls ?? null,
      generation: port.rules.current().generation,
    }));
  }

  /** Each port's name and rules. */
  rules(): [string, PortRules][] {
    return [...this.#open.values()].map(({ port }) => [port.key, port.rules.current()]);
  }

  async #add(plan: PortPlan, strict: boolean): Promise<void> {
    const open: OpenPort = {
      port: { key: plan.key, rules: new LiveCell(plan.rules) },
      plan,
      listener: undefined,
      problem: undefined,
      busy: false,
      closed: false,
    };
    this.#open.set(plan.key, open);
    await this.#bind(open);
    if (strict && open.problem !== undefined) throw open.problem;
  }

  async #bind(open: OpenPort): Promise<void> {
    const { table, tools, log, identity, trustDomain, tls, shared, draining } = this.#options;
    if (open.listener !== undefined || open.busy || draining()) return;
    const { direction, mtls } = open.port.rules.current();
    // Inbound waits: a port that answers no handshake would only look broken.
    if (direction === 'inbound' && mtls?.mode !== 'DISABLE' && identity.current() === undefined) return;
    open.busy = true;
    const { number, bind } = open.plan;
    const common = { port: open.port, number, bind, shared, table, tools, log };
    try {
      open.listener =
        direction === 'inbound'
          ? await startInboundListener({ ...common, identity, trustDomain, tls })
          : await startOutboundListener(common);
      open.problem = undefined;
      if (open.closed) open.listener.close();
    } catch (error) {
      open.problem = asSallyportError(error, 'listen_failed', `${open.port.key} cannot be bound`);
      log.error({ code: open.problem.code, hint: open.problem.hint }, open.problem.message);
    } finally {
      open.busy = false;
    }
  }
}
