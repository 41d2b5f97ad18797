// Step: what does the head mean? The codec has read it; here it becomes a request for one authority and one path, in the
// one spelling that policy judges and the app receives.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Exchange } from './exchange.ts';
import { normalizePath } from './policy/path.ts';
import { printable } from './protocol/http1-head.ts';

// RFC 9110 section 7.2 with RFC 3986 section 3.2.2, without user info, empty hosts and percent-encoding: a host that
// two parsers could read as two.
const authorityPattern = /^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=-]+)(?::\d{1,5})?$/;

/**
 * Fills in authority, path and request ID.
 * @throws SallyportError `connect_unsupported`, `head_invalid_url`, `host_invalid` or `path_invalid`.
 */
export function readMeaning(exchange: Exchange): void {
  const { target } = exchange;
  if (target.charCodeAt(0) === 47) {
    exchange.path = normalizePath(target, exchange.rules.pathNormalization);
  } else if (exchange.method === 'CONNECT') {
    readConnect(exchange);
  } else if (target === '*' && exchange.method === 'OPTIONS') {
    exchange.path = '*';
  } else {
    readAbsoluteForm(exchange, target);
  }
  checkAuthority(exchange);
  // One that Connection names belongs to the hop that ends here.
  exchange.requestIdGiven = exchange.requestId !== '' && exchange.hopFields?.includes('x-request-id') !== true;
  if (!exchange.requestIdGiven) exchange.requestId = crypto.randomUUID();
}

/**
 * Only on the way out, to an upstream by its name, whose own sidecar judges what comes. On the way in, and at a gateway, it
 * would be a hole: whoever may CONNECT could then ask the app for anything, and no policy would see the requests.
 */
function readConnect(exchange: Exchange): void {
  if (exchange.rules.direction !== 'outbound')
    throw new SallyportError('connect_unsupported', 'CONNECT is not served on the way in');
  if (exchange.framing !== 0) throw new SallyportError('length_invalid', 'CONNECT with a body');
  // RFC 9112 section 3.2.3: the target is the authority, with its port.
  if (!/:\d{1,5}$/.test(exchange.target))
    throw new SallyportError('host_invalid', `'${printable(exchange.target)}' is not host:port`);
  exchange.authority = exchange.target;
}

/** RFC 9112 section 3.2.2: the authority of an absolute-form target wins over Host, and Host is made anew from it. */
function readAbsoluteForm(exchange: Exchange, target: string): void {
  const match = /^(https?):\/\/([^/?#@]+)(?=[/?]|$)(.*)$/i.exec(target);
  // What a gateway's client asks over TLS is https to it; from an app it would be asking for what no proxy can read.
  const overTls = exchange.rules.direction === 'gateway' && exchange.connection.tls !== undefined;
  if (match?.[2] === undefined || (match[1]!.toLowerCase() === 'https') !== overTls) {
    throw new SallyportError(
      'head_invalid_url',
      `the target '${printable(target)}' is neither a path nor an http:// URL`,
      {
        hint: 'https is what Sallyport makes of it: ask for http:// and the name',
      },
    );
  }
  // The Host field that comes along must be sound all the same: it may not hide a second opinion.
  if (exchange.authority !== '') checkAuthority(exchange);
  exchange.authority = match[2];
  const path = match[3] ?? '';
  exchange.path = normalizePath(path.startsWith('/') ? path : `/${path}`, exchange.rules.pathNormalization);
}

const knownAuthorities = new Set<string>();

function checkAuthority(exchange: Exchange): void {
  const { authority } = exchange;
  if (knownAuthorities.has(authority)) return;
  if (authority === '' && exchange.minor === 0) return;
  if (!authorityPattern.test(authority)) {
    throw new SallyportError('host_invalid', `'${printable(authority)}' is not a host`);
  }
  // Bounded: a client that invents names must not grow us. A copy: a slice would keep the whole head alive that it is of.
  if (knownAuthorities.size < 256 && authority.length < 256)
    knownAuthorities.add(Buffer.from(authority, 'latin1').toString('latin1'));
}
