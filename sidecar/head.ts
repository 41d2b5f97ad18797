// Step: what does the head mean? The codec has parsed it; here it becomes a request for one authority and one path, in
// the one spelling that policy evaluates and the app receives.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Exchange } from './exchange/exchange.ts';
import { printable, withoutSecrets } from './exchange/message.ts';
import { newRequestId } from './exchange/request-id.ts';
import { normalizeHost } from './policy/host.ts';
import { normalizePath } from './policy/path.ts';

/** RFC 9112 section 3.2. In HTTP/2 the target is `:path`, or `:authority` of a CONNECT without `:protocol`. */
type TargetForm = 'origin' | 'absolute' | 'authority' | 'asterisk';
type MethodClass = 'CONNECT' | 'OPTIONS' | 'TRACE' | 'other';
type Direction = Exchange['rules']['direction'];

/** Sets authority and path from a target of one form. */
type ReadTarget = (exchange: Exchange) => void;

/** The value of `Exchange.minor` for HTTP/2. */
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
 * Every form of request, by side, method and target. A tunnel is allowed outbound only, to an upstream by its name,
 * whose own sidecar evaluates its contents: inbound and at a gateway no policy would see the requests inside it. The
 * codec reads an extended CONNECT (RFC 8441) as the GET that it stands for, or refuses it. A TRACE would echo to a
 * stranger what a gateway adds to a request, including the transaction token.
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
 * Sets authority, path and request ID.
 * @throws SallyportError `connect_unsupported`, `method_not_allowed`, `head_invalid_url`, `host_invalid`,
 * `path_invalid` or `length_invalid`.
 */
export function readMeaning(exchange: Exchange): void {
  forms[exchange.rules.direction][classOf(exchange.method)][formOf(exchange)](exchange);
  checkAuthority(exchange);
  // If Connection names it, it belongs to the hop that ends here.
  exchange.requestIdGiven = exchange.requestId !== '' && exchange.hopFields?.includes('x-request-id') !== true;
  if (!exchange.requestIdGiven) exchange.requestId = newRequestId();
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
  // After a refused CONNECT the tunnel's bytes may already follow, and no request.
  exchange.keepAlive = false;
  if (exchange.framing !== 0) throw new SallyportError('length_invalid', 'CONNECT with a body');
  if (!/:\d{1,5}$/.test(exchange.target))
    throw new SallyportError('host_invalid', `'${printable(withoutSecrets(exchange.target))}' is not host:port`);
  // A Host field beside it must be valid all the same: it must not hide another authority.
  if (exchange.authority !== '') checkAuthority(exchange);
  exchange.authority = exchange.target;
}

function refuseConnect(exchange: Exchange): never {
  exchange.keepAlive = false;
  throw new SallyportError(
    'connect_unsupported',
    exchange.rules.direction === 'outbound'
      ? `CONNECT needs host:port, not '${printable(withoutSecrets(exchange.target))}'`
      : 'CONNECT is supported outbound only',
  );
}

function refuseTrace(): never {
  throw new SallyportError('method_not_allowed', 'TRACE is not allowed at a gateway');
}

function refuseTarget({ target, method }: Exchange): never {
  throw new SallyportError(
    'head_invalid_url',
    `'${printable(withoutSecrets(target))}' is not a valid target for ${method}`,
  );
}

/** RFC 9112 section 3.2.2: the authority of an absolute-form target wins over Host, and Host is replaced by it. */
function readAbsoluteForm(exchange: Exchange): void {
  const { target } = exchange;
  const match = /^(https?):\/\/([^/?#@]+)(?=[/?]|$)(.*)$/i.exec(target);
  // A gateway's client uses https over TLS; an app that asks a proxy for https would request something no proxy can
  // read.
  const overTls = exchange.rules.direction === 'gateway' && exchange.connection.tls !== undefined;
  if (match?.[2] === undefined || (match[1]!.toLowerCase() === 'https') !== overTls) {
    throw new SallyportError(
      'head_invalid_url',
      `the target '${printable(withoutSecrets(target))}' is neither a path nor an http:// URL`,
      {
        hint: 'request http:// with the name of the upstream; Sallyport adds the TLS',
      },
    );
  }
  // A Host field beside it must be valid all the same: it must not hide another authority.
  if (exchange.authority !== '') checkAuthority(exchange);
  exchange.authority = match[2];
  const path = match[3] ?? '';
  exchange.path = normalizePath(path.startsWith('/') ? path : `/${path}`, exchange.rules.pathNormalization);
}

/**
 * RFC 9112 section 3.2.4: OPTIONS for an absolute URI without a path is for the server as a whole, and is forwarded as
 * `*`.
 */
function readAbsoluteOptions(exchange: Exchange): void {
  readAbsoluteForm(exchange);
  if (/^[^:]+:\/\/[^/?]+$/.test(exchange.target)) exchange.path = '*';
}

/**
 * Normalises the authority: this spelling is routed, authorized, logged and forwarded.
 * @throws SallyportError `host_invalid`.
 */
function checkAuthority(exchange: Exchange): void {
  const { authority } = exchange;
  if (authority === '' && exchange.minor === 0) return;
  const host = normalizeHost(authority);
  // Gateways have `*.example.com`, for which the label before the first dot matters; an app may not mind an empty one.
  const isDoubtful = host?.startsWith('.') === true && exchange.rules.direction !== 'gateway';
  if (host === undefined || isDoubtful)
    throw new SallyportError('host_invalid', `'${printable(authority)}' is not a valid host`);
  exchange.authority = host;
}
