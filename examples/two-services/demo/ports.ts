// The ports in the example's files, and free ones to replace them: the demo must not disturb other processes.

import { createServer } from 'node:net';

/** As in web.yaml, orders.yaml and the README. */
export const examplePorts = Object.freeze({
  ca: 8443,
  ordersApp: 8081,
  webApp: 8082,
  /** Where `orders` takes mutual TLS. */
  inbound: 15006,
  /** Where `web` sends requests to its sidecar, which selects the upstream by Host. */
  outbound: 15001,
  /** The same, always to `orders`. */
  toOrders: 15002,
  ordersAdmin: 15000,
  ordersHealth: 15021,
  webAdmin: 15010,
  webHealth: 15031,
  webAgent: 15020,
  reportsAgent: 15022,
  otherCa: 8444,
  /** Where `web` takes mutual TLS. */
  webInbound: 15007,
  gatewayHttps: 9443,
  gatewayHttp: 9080,
  gatewayAdmin: 15040,
  gatewayHealth: 15041,
  page: 8083,
  issuer: 8084,
});

export type Ports = Readonly<Record<keyof typeof examplePorts, number>>;

/** A free loopback port for each. */
export async function findPorts(): Promise<Ports> {
  const found: [string, number][] = [];
  for (const name of Object.keys(examplePorts)) found.push([name, await freePort()]);
  return Object.fromEntries(found) as Ports;
}

// The system's ports for outgoing connections begin at 32768 (Linux) or higher: one of those, free now, may be in use
// when it is needed. Below them, each process starts its search at a different port, so that two do not find the
// same.
const range = { lowest: 10_240, count: 32_768 - 10_240 };
let next = (process.pid * 211) % range.count;

/** Limits the search to one of `parts` equal parts of the range, for processes that need many ports side by side. */
export function useOnlyPart(part: number, parts: number): void {
  const count = Math.floor(range.count / parts);
  Object.assign(range, { lowest: range.lowest + part * count, count });
  next %= count;
}

/** A free loopback port that this process has not returned before. */
export async function freePort(): Promise<number> {
  for (let tried = 0; tried < range.count; tried++) {
    const port = range.lowest + next;
    next = (next + 1) % range.count;
    if (await isFree(port)) return port;
  }
  throw new Error(`no port between ${range.lowest} and ${range.lowest + range.count} is free`);
}

/** `text` of one of the example's files, with its ports replaced by ours. */
export function withPorts(text: string, ports: Ports): string {
  const names = Object.keys(examplePorts) as (keyof Ports)[];
  return text.replace(/\b\d{4,5}\b/g, (number) => {
    const name = names.find((one) => String(examplePorts[one]) === number);
    return name === undefined ? number : String(ports[name]);
  });
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}
