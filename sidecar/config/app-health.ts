// `appHealth`: what an app is asked when a probe asks us, in the words of a Kubernetes probe. A path alone is `httpGet`.

import { z } from 'zod';
import { durationSchema } from '../../cert-agent/base/yaml.ts';
import type { AppCheck } from '../upstream/probe.ts';

const pathWords = "a path, which begins with '/' and holds visible ASCII without '#'";
/** It stands in the request line as it is. */
export const healthPath = z.string().regex(/^\/[\x21\x22\x24-\x7e]*$/, `expected ${pathWords}`);
const maxTimeoutMs = 60_000;

/** A kubelet's `timeoutSeconds` is one second where nobody says more. */
const timeout = durationSchema
  .prefault('1s')
  .refine((ms) => ms > 0 && ms <= maxTimeoutMs, 'a timeout is more than nothing and at most a minute');

export const appHealth = z.union(
  [
    healthPath,
    z.strictObject({
      httpGet: z.strictObject({ path: healthPath.default('/') }).optional(),
      grpc: z.strictObject({ service: z.string().max(1024).default('') }).optional(),
      tcpSocket: z.strictObject({}).optional(),
      timeout,
    }),
  ],
  `expected ${pathWords}, or one of 'httpGet', 'grpc' and 'tcpSocket'`,
);

type Written = z.output<typeof appHealth>;

/** As the path has it. */
export function readAppHealth(written: Written): AppCheck {
  if (typeof written === 'string') return { kind: 'http', path: written, timeoutMs: 1000 };
  const { httpGet, grpc, timeout: timeoutMs } = written;
  if (httpGet !== undefined) return { kind: 'http', path: httpGet.path, timeoutMs };
  return grpc === undefined ? { kind: 'tcp', timeoutMs } : { kind: 'grpc', service: grpc.service, timeoutMs };
}

interface Entry {
  readonly protocol: string;
  readonly policyPort: number;
  readonly appHealth?: Written | undefined;
}

/** Whether each check can be asked, and is the only one of its page. */
export function checkAppHealth(
  whole: string | undefined,
  inbound: readonly Entry[],
  at: (path: (string | number)[], message: string) => void,
): void {
  const [first] = inbound;
  if (whole !== undefined && first === undefined) at(['appHealth'], "there is no app to ask: 'inbound' names no port");
  if (whole !== undefined && first?.appHealth !== undefined)
    at(['appHealth'], 'this means the app of inbound[0], which has an appHealth of its own');
  const pages = new Map<number, number>();
  for (const [index, { protocol, policyPort, appHealth: own }] of inbound.entries()) {
    const written = own ?? (index === 0 ? whole : undefined);
    if (written === undefined) continue;
    const where = own === undefined ? ['appHealth'] : ['inbound', index, 'appHealth'];
    if (typeof written !== 'string') {
      const { httpGet, grpc, tcpSocket } = written;
      if ([httpGet, grpc, tcpSocket].filter((one) => one !== undefined).length !== 1)
        at(where, "needs exactly one of 'httpGet', 'grpc' and 'tcpSocket'");
      else if (grpc !== undefined && protocol === 'http')
        at(where, "gRPC is asked in HTTP/2, and this port's app speaks HTTP/1.1: is it 'protocol: grpc'?");
    }
    const taken = pages.get(policyPort);
    if (taken !== undefined) at(where, `/app-health/${policyPort} is the page of inbound[${taken}] already`);
    else pages.set(policyPort, index);
  }
}
