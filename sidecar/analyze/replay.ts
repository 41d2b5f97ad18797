// Reads an access log back as requests, as far as the log has the facts. It has no headers or claims; a decision that
// depends on one is reported as unknown.

import { createFacts, type RequestFacts } from '../policy/facts.ts';
import { ipOfPlace } from '../policy/ip.ts';

/** The parsed part of a log line. */
export interface LoggedRequest {
  readonly facts: RequestFacts;
  readonly allowed: boolean;
  readonly policy: string;
  readonly time: string;
  /** True if a rule has used a fact that the log does not have. */
  askedForMore(): boolean;
}

/** The request of one line; undefined if it is not inbound or no policy evaluated it. @throws SyntaxError */
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
        // The log does not say which proxy's claim about the address was trusted.
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
