// Step: what does the head mean? The codec has read it; here it becomes a request for one authority and one path, in the
// one spelling that policy judges and the app receives.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Exchange } from './exchange/exchange.ts';
import { printable } from './exchange/message.ts';
import { normalizeHost } from './policy/host.ts';
import { normalizePath } from './policy/path.ts';

/** RFC 9112 section 3.2. In HTTP/2 the target is `:path`, or `:authority` of a CONNECT without `:protocol`. */
type TargetForm = 'origin' | 'absolute' | 'authority' | 'asterisk';
type MethodClass = 'CONNECT' | 'OPTIONS' | 'TRACE' | 'other';
type Direction = Exchange['rules']['direction'];

/** Fills in authority and path from a target of one form. */
type ReadTarget = (exchange: Exchange) => void;

/** The minor version that stands for HTTP/2 in `Exchange.minor`. */
const http2 = 2;

const requests: Readonly<Record<TargetForm, ReadTarget>> = {
  origin: readOriginForm,
  absolute: readAbsoluteForm,
  authority: refuseTarget,
  asterisk: refuseTarget,
};
const options: Readonly<Record<TargetForm, ReadTarget>> = {
  ...requests,
  asterisk: readAsteriskForm,
  absolute: readAbsoluteOptions,
};
const noTunnel: Readonly<Record<TargetForm, ReadTarget>> = {
  origin: refuseConnect,
  absolute: refuseConnect,
  authority: refuseConnect,
  asterisk: refuseConnect,
};
const noTrace: Readonly<Record<TargetForm, ReadTarget>> = {
  origin: refuseTrace,
  absolute: refuseTrace,
  authority: refuseTrace,
  asterisk: refuseTrace,
};

/**
 * Every form of request, by side, method and target. A tunnel exists on the way out only, to an upstream by its name, whose
 * own sidecar judges what comes: on the way in and at a gateway no policy would see the requests inside it. An extended
 * CONNECT (RFC 8441) is read by the codec as the GET that it stands for, or refused there.
 * A TRACE echoes to a stranger what a gateway adds to a request, the transaction token among it.
 */
const forms: Readonly<Record<Direction, Readonly<Record<MethodClass, Readonly<Record<TargetForm, ReadTarget>>>>>> = {
  inbound: { CONNECT: noTunnel, OPTIONS: options, TRACE: requests, other: requests },
  outbound: {
    CONNECT: { ...noTunnel, authority: readAuthorityForm },
    OPTIONS: options,
    TRACE: requests,
    other: requests,
  },
  gateway: { CONNECT: noTunnel, OPTIONS: options, TRACE: noTrace, other: requests },
};

/**
 * Fills in authority, path and request ID.
 * @throws SallyportError `connect_unsupported`, `method_not_allowed`, `head_invalid_url`, `host_invalid`, `path_invalid` or
 * `length_invalid`.
 */
export function readMeaning(exchange: Exchange): void {
  forms[exchange.rules.direction][classOf(exchange.method)][formOf(exchange)](exchange);
  checkAuthority(exchange);
  // One that Connection names belongs to the hop that ends here.
  exchange.requestIdGiven = exchange.requestId !== '' && exchange.hopFields?.includes('x-request-id') !== true;
  if (!exchange.requestIdGiven) exchange.requestId = crypto.randomUUID();
}

function classOf(method: string): MethodClass {
  return method === 'CONNECT' || method === 'OPTIONS' || method === 'TRACE' ? method : 'other';
}

function formOf({ target, minor }: Exchange): TargetForm {
  if (target.charCodeAt(0) === 47) return 'origin';
  if (target === '*') return 'asterisk';
  // HTTP/2 has no absolute form (RFC 9113 section 8.3.1); the codec has refused it.
  return minor !== http2 && /^[A-Za-z][A-Za-z0-9+.-]*:\/\//.test(target) ? 'absolute' : 'authority';
}

function readOriginForm(exchange: Exchange): void {
  exchange.path = normalizePath(exchange.target, exchange.rules.pathNormalization);
}

/** RFC 9112 section 3.2.4: the server as a whole. */
function readAsteriskForm(exchange: Exchange): void {
  exchange.path = '*';
}

/** RFC 9112 section 3.2.3: the target of CONNECT is the authority, with its port. */
function readAuthorityForm(exchange: Exchange): void {
  // What follows a CONNECT that is refused may be the tunnel's bytes already, and no request.
  exchange.keepAlive = false;
  if (exchange.framing !== 0) throw new SallyportError('length_invalid', 'CONNECT with a body');
  if (!/:\d{1,5}$/.test(exchange.target))
    throw new SallyportError('host_invalid', `'${printable(exchange.target)}' is not host:port`);
  // The Host field that comes along must be sound all the same: it may not hide a second opinion.
  if (exchange.authority !== '') checkAuthority(exchange);
  exchange.authority = exchange.target;
}

function refuseConnect(exchange: Exchange): never {
  exchange.keepAlive = false;
  throw new SallyportError(
    'connect_unsupported',
    exchange.rules.direction === 'outbound'
      ? `CONNECT needs host:port, not '${printable(exchange.target)}'`
      : 'CONNECT is served on the way out only',
  );
}

function refuseTrace(): never {
  throw new SallyportError('method_not_allowed', 'TRACE is not served at a gateway');
}

function refuseTarget({ target, method }: Exchange): never {
  throw new SallyportError('head_invalid_url', `'${printable(target)}' is no target for ${method}`);
}

/** RFC 9112 section 3.2.2: the authority of an absolute-form target wins over Host, and Host is made anew from it. */
function readAbsoluteForm(exchange: Exchange): void {
  const { target } = exchange;
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

/** RFC 9112 section 3.2.4: an absolute URI without a path asks about the server as a whole, and goes on as `*`. */
function readAbsoluteOptions(exchange: Exchange): void {
  readAbsoluteForm(exchange);
  if (/^[^:]+:\/\/[^/?]+$/.test(exchange.target)) exchange.path = '*';
}

/**
 * Puts the authority into its one spelling: what is routed, judged, logged and forwarded.
 * @throws SallyportError `host_invalid`.
 */
function checkAuthority(exchange: Exchange): void {
  const { authority } = exchange;
  if (authority === '' && exchange.minor === 0) return;
  const host = normalizeHost(authority);
  // Gateways have `*.example.com`, to which the name in front of the first dot matters; to an app an empty one may not.
  const isDoubtful = host?.startsWith('.') === true && exchange.rules.direction !== 'gateway';
  if (host === undefined || isDoubtful)
    throw new SallyportError('host_invalid', `'${printable(authority)}' is not a host`);
  exchange.authority = host;
}
