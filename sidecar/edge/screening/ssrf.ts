// Server-side request forgery: addresses that only the server can reach, in every notation that resolvers accept.

import { type Detect, signsOf } from './finding.ts';

const signs = signsOf('ssrf', {
  metadata: [5],
  internal: [5],
  scheme: [5],
  notation: [5],
  rebinding: [5],
  userinfo: [3],
  authority: [5],
  host: [3],
});

const url =
  /(?:^|[\s"'=,(<[:;@])(?:(?:url|src|href|uri|x):)?((?:https?|ftps?|wss?|gopher|dict|tftp|ldaps?|sftp|smb|imap|pop3|smtp|telnet|rtsp|redis|mongodb|rmi|jndi|git|svn|nfs)[:](?:[/\\]{1,4}|(?=\d))|(?:[/\\]{2,4}))([^\s"'<>/?#\\]{1,300})/gi;
const badScheme = /^(?:gopher|dict|tftp|ldaps?|sftp|smb|imap|pop3|smtp|telnet|redis|rmi|jndi|netdoc|nfs)/i;

const metadata =
  /^(?:metadata(?:\.google\.internal|\.goog|\.azure\.(?:com|internal)|\.packet\.net|\.tencentyun\.com|\.platformequinix\.com)?|instance-data(?:\.ec2\.internal)?|rancher-metadata|kubernetes\.default(?:\.svc(?:\.cluster\.local)?)?|host\.docker\.internal|burpcollaborator\.net|.{1,80}\.(?:burpcollaborator\.net|oastify\.com|interact\.sh|oast\.\w{2,8}|dnslog\.cn|ceye\.io|requestbin\.net))$/i;
const rebinding =
  /(?:^|\.)(?:localtest\.me|lvh\.me|nip\.io|sslip\.io|xip\.io|vcap\.me|lacolhost\.com|spoofed\.burpcollaborator\.net|1u\.ms|rbndr\.us|localdomain\.pw|yoogle\.com)$/i;

export const detectSsrf: Detect = function detectSsrf(text, report, place) {
  if (place === 'name' || !/[:/\\][/\\]|169\.254|localhost|127\.|^[\d.xa-f]+[:/]|^\[/i.test(text)) return;
  let count = 0;
  const whole = text.length < 2000 && !/\S\s{1,20}\S/.test(text);
  for (const match of text.matchAll(url)) {
    if (++count > 100) break;
    const scheme = match[1]!;
    if (badScheme.test(scheme) && (whole || /^(?:gopher|dict|jndi|tftp|netdoc)/i.test(scheme))) report(signs.scheme);
    judge(match[2]!, whole && match.index < 8, report);
    // Readers differ in where the host is: `http://a#@b/`, `http://a\@b/`.
    if (/^[#\\?&\s]{1,3}@/.test(text.slice(match.index + match[0].length, match.index + match[0].length + 4)))
      report(signs.authority);
  }
  if (count === 0 && whole) {
    const bare = /^([\d.a-fx[\]:]{3,60}|localhost)(?::\d{1,5})?(?:\/\S{0,500})?$/i.exec(text.trim());
    if (bare !== null && /^169\.254\.169\.254/.test(bare[1]!)) report(signs.metadata);
    else if (bare !== null && /^(?:127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost)$/i.test(bare[1]!) && /[:/]/.test(text))
      report(signs.internal);
  }
};

function judge(authority: string, isWhole: boolean, report: Parameters<Detect>[1]): void {
  const at = authority.lastIndexOf('@');
  const host = hostOf(authority.slice(at + 1));
  if (at !== -1 && /^\d{1,3}(?:\.\d{1,3}){3}(?::|$)/.test(authority.slice(0, at))) report(signs.authority);
  if (metadata.test(host)) return report(signs.metadata);
  if (rebinding.test(host)) return report(isWhole ? signs.rebinding : signs.host);
  const address = addressOf(host);
  if (address === undefined) {
    if (isWhole && /(?:^|\.)(?:localhost|localdomain|internal|local|intranet|corp|lan)\.?$/i.test(host))
      report(signs.internal);
    else if (isWhole && at !== -1 && /[.:]\d|@.{1,200}@|#/.test(authority)) report(signs.userinfo);
    return;
  }
  const { value, isPlain } = address;
  if (value === 0xa9fea9fe || value === 0x646464c8 || value === 0xa83f8110) return report(signs.metadata);
  if (!isPlain) return report(signs.notation);
  if (isWhole && isInternal(value)) report(signs.internal);
}

function hostOf(authority: string): string {
  if (authority.startsWith('[')) return authority.slice(0, authority.indexOf(']') + 1).toLowerCase();
  // Circled and full-width digits and dots are letters of the host (UTS 46).
  return authority
    .replace(/:\d{0,5}$/, '')
    .normalize('NFKC')
    .replaceAll('。', '.')
    .replace(/\.$/, '')
    .toLowerCase();
}

/** IPv4 as `inet_aton` reads it, or IPv6 that stands for one or is local. */
function addressOf(host: string): { readonly value: number; readonly isPlain: boolean } | undefined {
  if (host.startsWith('[')) {
    const spelled = canonical(host);
    if (spelled !== host) return addressOf(spelled);
    if (/^\[(?:::1?|0(?::0){6}:[01]|fe80:.{1,60}|f[cd][0-9a-f]{2}:.{1,60}|fd00:ec2::254)\]$/.test(host))
      return { value: 0x7f000001, isPlain: true };
    const mapped =
      /^\[(?:::(?:ffff:(?:0:)?)?|64:ff9b::|0:0:0:0:0:ffff:)(\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{1,4}:[0-9a-f]{1,4})\]$/.exec(
        host,
      )?.[1];
    if (mapped === undefined) return undefined;
    if (mapped.includes('.')) return addressOf(mapped);
    const [high, low] = mapped.split(':').map((part) => Number.parseInt(part, 16)) as [number, number];
    const value = high * 0x10000 + low;
    return isInternal(value) ? { value, isPlain: false } : undefined;
  }
  if (!/^[0-9a-fx.]{1,60}$/.test(host) || !/^\d/.test(host)) return undefined;
  const parts = host.split('.');
  if (parts.length > 4) return undefined;
  const numbers: number[] = [];
  let isPlain = parts.length === 4;
  for (const part of parts) {
    if (!/^(?:0x[0-9a-f]{0,12}|\d{1,14})$/.test(part)) return undefined;
    const isOctal = /^0\d/.test(part);
    if (isOctal || part.startsWith('0x')) isPlain = false;
    numbers.push(
      part.startsWith('0x') ? Number(part.length === 2 ? 0 : part) : isOctal ? Number.parseInt(part, 8) : Number(part),
    );
  }
  const last = numbers.pop()!;
  let value = last;
  for (const [i, one] of numbers.entries()) value += (one % 256) * 256 ** (3 - i);
  value %= 2 ** 32;
  return isPlain || isInternal(value) || value === 0xa9fea9fe ? { value, isPlain } : undefined;
}

/** IPv6 in its one spelling (RFC 5952). */
function canonical(host: string): string {
  try {
    return new URL(`http://${host}/`).hostname;
  } catch {
    return host;
  }
}

/** Loopback, private, link-local, unspecified, shared (RFC 6890). */
function isInternal(value: number): boolean {
  const first = value >>> 24;
  const second = (value >>> 16) & 255;
  return (
    first === 127 ||
    first === 10 ||
    first === 0 ||
    (first === 192 && second === 168) ||
    (first === 169 && second === 254) ||
    (first === 172 && second >= 16 && second < 32) ||
    (first === 100 && second >= 64 && second < 128)
  );
}
