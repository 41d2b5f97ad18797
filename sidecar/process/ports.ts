// The ports of a process. The configuration plans them, each is bound once its prerequisites exist, and it gets new
// rules with each generation. A port that cannot be bound waits and reports why.

import { asSallyportError, type SallyportError } from '../../cert-agent/base/errors.ts';
import { type Live, LiveCell } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import type { PortPlan } from '../compile/sidecar-ports.ts';
import type { ConnectionTable, Port } from '../connection.ts';
import type { PortRules } from '../exchange/exchange.ts';
import { type FrontListener, startGatewayListener } from '../front-door.ts';
import { type Listener, startInboundListener, startPlainListener } from '../listener.ts';
import type { TlsSettings } from '../protocol/tls.ts';
import type { ProxyTools } from '../proxy.ts';

/** What ports are bound with. */
export interface PortsOptions {
  readonly table: ConnectionTable;
  readonly tools: ProxyTools;
  readonly log: Log;
  readonly identity: Live<Identity | undefined>;
  readonly tls: TlsSettings;
  /** For the clients of a gateway. */
  readonly downstreamTls: TlsSettings;
  /** True if other processes listen on the same ports. */
  readonly shared: boolean;
  /** True once no new connections are accepted. */
  draining(): boolean;
}

type LivePort = Port & { readonly rules: LiveCell<PortRules> };

/** A planned port: bound, or waiting for what it needs. */
interface OpenPort {
  readonly port: LivePort;
  /** Streams on the same port; absent for outbound ports. */
  readonly streams: LivePort | undefined;
  /** At a gateway: the listeners, from which the client's server name selects. */
  readonly front: LiveCell<readonly FrontListener[]> | undefined;
  plan: PortPlan;
  listener: Listener | undefined;
  problem: SallyportError | undefined;
  busy: boolean;
  closed: boolean;
}

/** The planned ports of a process. */
export class Ports {
  readonly #options: PortsOptions;
  readonly #open = new Map<string, OpenPort>();

  constructor(options: PortsOptions) {
    this.#options = options;
  }

  /**
   * Sets new rules for the ports that stay, then closes and opens the others. With `strict`, at the start, a port that
   * is taken is an error, since waiting does not help; later the old ports continue.
   * @throws SallyportError `port_in_use` or `listen_failed`.
   */
  async apply(plans: readonly PortPlan[], strict: boolean): Promise<void> {
    const wanted = new Map(plans.map((plan) => [plan.key, plan]));
    for (const [key, open] of this.#open) {
      const plan = wanted.get(key);
      // A port with another protocol or another address is a new port.
      if (plan !== undefined && kindOf(plan) === kindOf(open.plan)) continue;
      open.closed = true;
      open.listener?.close();
      this.#open.delete(key);
      this.#retire(open);
      this.#options.log.info({ code: 'port_closed', port: key }, `${key} is no longer in the configuration`);
    }
    for (const plan of plans) {
      const known = this.#open.get(plan.key);
      if (known === undefined) await this.#add(plan, strict);
      else {
        known.plan = plan;
        known.port.rules.set(plan.rules);
        const streams = streamsOf(plan);
        if (streams !== undefined) known.streams?.rules.set(streams);
        if (plan.gateway?.front !== undefined) known.front?.set(plan.gateway.front);
      }
    }
  }

  /** Binds the ports that were waiting and can be bound now. */
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

  /** Accepts no new connections in this direction. */
  close(direction: PortRules['direction']): void {
    for (const { port, listener } of this.#open.values())
      if (port.rules.current().direction === direction) listener?.close();
  }

  /** Also for ports that are planned and not bound yet. */
  has(direction: PortRules['direction']): boolean {
    return [...this.#open.values()].some(({ port }) => port.rules.current().direction === direction);
  }

  /** For the admin port. `bound` is null until the port is. */
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

  /**
   * Later generations do not reach a removed port, so its connections must end: requests in flight finish, new ones
   * need a new connection, and streams of a gateway, which would never finish, lose their route.
   */
  #retire({ port, streams }: OpenPort): void {
    for (const one of [port, streams]) {
      const rules = one?.rules.current();
      if (rules?.findStream !== undefined) one!.rules.set(Object.freeze({ ...rules, findStream: () => undefined }));
    }
    for (const connection of [...this.#options.table])
      if (connection.port === port || connection.port === streams) connection.speaker?.drain();
  }

  async #add(plan: PortPlan, strict: boolean): Promise<void> {
    const { key, gateway } = plan;
    const streams = streamsOf(plan);
    const open: OpenPort = {
      port: { key, rules: new LiveCell(plan.rules) },
      streams: streams === undefined ? undefined : { key, rules: new LiveCell(streams) },
      front: gateway?.front === undefined ? undefined : new LiveCell(gateway.front),
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
    const { table, tools, log, identity, tls, shared, draining } = this.#options;
    if (open.listener !== undefined || open.busy || draining()) return;
    const { direction, mtls } = open.port.rules.current();
    // Inbound ports wait: an open port that fails every handshake would look broken.
    if (direction === 'inbound' && mtls?.mode !== 'DISABLE' && identity.current() === undefined) return;
    open.busy = true;
    const { number, bind } = open.plan;
    const common = { port: open.port, number, bind, shared, table, tools, log, proxies: open.plan.gateway?.proxies };
    try {
      const { streams, front } = open;
      if (direction === 'inbound')
        open.listener = await startInboundListener({ ...common, identity, tls, streams: streams! });
      else if (streams !== undefined && front !== undefined)
        open.listener = await startGatewayListener({ ...common, streams, front, tls: this.#options.downstreamTls });
      else open.listener = await startPlainListener(common);
      open.problem = undefined;
      if (open.closed) open.listener.close();
    } catch (error) {
      open.problem = asSallyportError(error, 'listen_failed', `${open.port.key} cannot bind`);
      log.error({ code: open.problem.code, hint: open.problem.hint }, open.problem.message);
    } finally {
      open.busy = false;
    }
  }
}

function streamsOf({ streams, gateway }: PortPlan): PortRules | undefined {
  return gateway?.streams ?? streams;
}

/** What cannot change on a bound port. */
function kindOf({ number, bind, rules, gateway }: PortPlan): string {
  return gateway === undefined
    ? 'sidecar'
    : `${bind}:${number} ${rules.protocol} ${gateway.front !== undefined} ${gateway.proxies}`;
}
