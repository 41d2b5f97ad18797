// `appHealth`: how to check the app when a probe checks us, in the form of a Kubernetes probe. A path alone is
// `httpGet`.

import { z } from 'zod';
import type { Address } from '../../cert-agent/base/address.ts';
import { durationSchema } from '../../cert-agent/base/yaml.ts';
import type { AppCheck, NamedProbe } from '../upstream/probe.ts';

const pathWords = "a path, which begins with '/' and contains visible ASCII without '#'";
/** The path is copied into the request line. */
export const healthPath = z.string().regex(/^\/[\x21\x22\x24-\x7e]*$/, `expected ${pathWords}`);
const maxTimeoutMs = 60_000;

/** A kubelet's `timeoutSeconds` is one second by default. */
const timeout = durationSchema
  .prefault('1s')
  .refine((ms) => ms > 0 && ms <= maxTimeoutMs, 'a timeout must be above zero and at most one minute')
  .meta({ description: 'How long the app has to respond.', bounds: 'above 0s, at most 1m' });

const httpGet = z
  .strictObject({ path: healthPath.default('/').meta({ description: 'The path.', example: '/healthz' }) })
  .describe("GET, in the app's protocol.");
const grpcCheck = z
  .strictObject({
    service: z
      .string()
      .max(1024)
      .default('')
      .meta({ description: "The service to ask for; '' is the whole server.", example: 'orders' }),
  })
  .describe('A call of `grpc.health.v1.Health/Check`.');
const tcpCheck = z.strictObject({}).meta({ description: 'A connection is enough.', example: {} });

/**
 * `appHealth` of an inbound port, as written. `checkAppHealth` sees to it that it has exactly one of the three forms.
 */
export const appHealth = z
  .union(
    [
      healthPath,
      z.strictObject({
        httpGet: httpGet.optional(),
        grpc: grpcCheck.optional(),
        tcpSocket: tcpCheck.optional(),
        timeout,
      }),
    ],
    `expected ${pathWords}, or one of 'httpGet', 'grpc' and 'tcpSocket'`,
  )
  .meta({
    description: 'How a probe that asks us checks the app: a path for GET, or one of the forms of a Kubernetes probe.',
    example: '/healthz',
  });

type Written = z.output<typeof appHealth>;

/** Token characters (RFC 9110 section 5.6.2) and visible ASCII: both are copied into the request. */
const header = z.strictObject({
  name: z
    .string()
    .regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, 'is not the name of a header')
    .meta({ description: 'The name.', example: 'x-probe' }),
  value: z
    .string()
    .regex(/^[\x20-\x7e]*$/, 'contains more than visible ASCII')
    .meta({ description: 'The value.', example: '1' }),
});

/** `appProbes`: probes of Kubernetes by container and kind, asked at `/app-health/<container>/readyz`. */
export const appProbes = z
  .record(
    z
      .string()
      .regex(
        /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\/(?:livez|readyz|startupz)$/,
        "expected a container and 'livez', 'readyz' or 'startupz': web/readyz",
      ),
    z
      .strictObject({
        port: z
          .number()
          .int()
          .min(1)
          .max(65_535)
          .meta({ description: 'The port of the container, on 127.0.0.1.', example: 8080 }),
        httpGet: httpGet
          .safeExtend({
            httpHeaders: z.array(header).default([]).describe('Headers of the GET.'),
          })
          .describe("GET, in the app's protocol.")
          .optional(),
        grpc: grpcCheck.optional(),
        tcpSocket: tcpCheck.optional(),
        timeout,
      })
      .refine(
        ({ httpGet, grpc, tcpSocket }) => [httpGet, grpc, tcpSocket].filter((one) => one !== undefined).length === 1,
        "needs exactly one of 'httpGet', 'grpc' and 'tcpSocket'",
      ),
  )
  .describe('Probes of several containers, by container and kind: `web/readyz` is asked at `/app-health/web/readyz`.');

/** The checks by name. An app that one of `inbound` describes is asked in its protocol. */
export function readAppProbes(
  written: z.output<typeof appProbes>,
  inbound: readonly { readonly app: Address; readonly protocol: NamedProbe['protocol'] }[],
): Readonly<Record<string, NamedProbe>> {
  const entries = Object.entries(written).map(([name, { port, httpGet, grpc, timeout: timeoutMs }]) => {
    const found = inbound.find(({ app }) => 'port' in app && app.port === port);
    const headers = httpGet?.httpHeaders.map((one) => [one.name, one.value] as const);
    const check: AppCheck =
      httpGet !== undefined
        ? { kind: 'http', path: httpGet.path, timeoutMs, ...(headers?.length === 0 ? {} : { headers }) }
        : grpc === undefined
          ? { kind: 'tcp', timeoutMs }
          : { kind: 'grpc', service: grpc.service, timeoutMs };
    return [name, { app: { host: '127.0.0.1', port }, protocol: found?.protocol ?? 'http', check }] as const;
  });
  return Object.fromEntries(entries);
}

/** The normalized check. */
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

/** Checks that each check can be performed and has a page of its own. */
export function checkAppHealth(
  whole: string | undefined,
  inbound: readonly Entry[],
  at: (path: (string | number)[], message: string) => void,
): void {
  const [first] = inbound;
  if (whole !== undefined && first === undefined) at(['appHealth'], "there is no app to check: 'inbound' has no port");
  if (whole !== undefined && first?.appHealth !== undefined)
    at(['appHealth'], 'this applies to the app of inbound[0], which has its own appHealth');
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
        at(where, "a gRPC check needs HTTP/2, but the app of this port uses HTTP/1.1: is it 'protocol: grpc'?");
    }
    const taken = pages.get(policyPort);
    if (taken !== undefined) at(where, `/app-health/${policyPort} is already the page of inbound[${taken}]`);
    else pages.set(policyPort, index);
  }
}
