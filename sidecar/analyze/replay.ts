// An access log read back as requests: what policies looked at then, as far as a log holds it. Headers and claims are not in
// it; a verdict that hangs on one of them cannot be told, and is said to be so.

import { createFacts, type RequestFacts } from '../policy/facts.ts';
import { ipOfPlace } from '../policy/ip.ts';

/** A line of the log, as far as it is read. */
export interface LoggedRequest {
  readonly facts: RequestFacts;
  readonly allowed: boolean;
  readonly policy: string;
  readonly time: string;
  /** Whether anybody has asked for what a log does not hold. */
  askedForMore(): boolean;
}

/** The request of one line; undefined for what is none of the way in, or was never judged. @throws SyntaxError */
export function readLogLine(line: string): LoggedRequest | undefined {
  const record = JSON.parse(line) as Record<string, unknown>;
  const text = (key: string): string => (typeof record[key] === 'string' ? (record[key] as string) : '');
  const cluster = /^inbound\|(\d+)\|/.exec(text('upstream_cluster'));
  const decision = text('decision');
  if (cluster === null || (decision !== 'allow' && decision !== 'deny')) return undefined;
  const tcp = text('protocol') === '';
  const sourceIp = ipOfPlace(text('downstream_remote_address'));
  const forwarded = text('x_forwarded_for') !== '';
  let asked = false;
  const facts = createFacts({
    protocol: tcp ? 'tcp' : 'http',
    principal: text('peer_id'),
    method: text('method'),
    path: text('path').split('?', 1)[0]!,
    host: text('authority'),
    port: Number(cluster[1]),
    sni: text('requested_server_name'),
    sourceIp,
    destinationIp: ipOfPlace(text('downstream_local_address')),
  });
  return {
    facts: {
      ...facts,
      get auth() {
        asked ||= !tcp;
        return undefined;
      },
      get remoteIp() {
        // Whose word on it was believed is not on record.
        asked ||= forwarded;
        return sourceIp;
      },
      header() {
        asked = true;
        return undefined;
      },
    },
    allowed: decision === 'allow',
    policy: text('policy') || 'none',
    time: text('start_time'),
    askedForMore: () => asked,
  };
}
