// The ports of the example's files, and free ones to take their place: the demo runs beside whatever else is running.

import { createServer } from 'node:net';

/** As they stand in web.yaml, orders.yaml and the README. */
export const examplePorts = Object.freeze({
  ca: 8443,
  ordersApp: 8081,
  webApp: 8082,
  /** Where `orders` takes mutual TLS. */
  inbound: 15006,
  /** Where `web` speaks to its sidecar, which chooses the upstream by Host. */
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
});

export type Ports = Readonly<Record<keyof typeof examplePorts, number>>;

/** A free loopback port for each. All are held until the last is found, so that none is given twice. */
export async function findPorts(): Promise<Ports> {
  const names = Object.keys(examplePorts);
  const probes = await Promise.all(names.map(holdPort));
  await Promise.all(probes.map(({ release }) => release()));
  return Object.fromEntries(names.map((name, index) => [name, probes[index]!.port])) as Ports;
}

/** `text` of one of the example's files with our ports in place of its own. */
export function withPorts(text: string, ports: Ports): string {
  const names = Object.keys(examplePorts) as (keyof Ports)[];
  return text.replace(/\b\d{4,5}\b/g, (number) => {
    const name = names.find((one) => String(examplePorts[one]) === number);
    return name === undefined ? number : String(ports[name]);
  });
}

function holdPort(): Promise<{ port: number; release(): Promise<void> }> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      resolve({ port, release: () => new Promise((done) => probe.close(() => done())) });
    });
  });
}
