// What a file is that holds no certificate, and the command that turns it into one that can be inspected, or shows it. By
// its first bytes and PEM labels alone: nothing of a stranger's file is parsed for this.

import { shellWord } from '../../cert-agent/base/shell-word.ts';

/** `what` goes on with "it is". */
export interface OtherFile {
  readonly what: string;
  readonly hint: string;
}

interface Form extends OtherFile {
  readonly sign: RegExp;
}

const decrypt = (input: string): string =>
  `'openssl pkey ${input} -out key.pem' decrypts it; '--key key.pem', beside the file of a certificate, shows whether they belong together`;
const belongs = "'sallyport inspect CERTIFICATE --key FILE' shows whether it belongs to a certificate";

/** FILE stands for its name. The encrypted forms come before those that they resemble. */
const texts: readonly Form[] = [
  {
    sign: /^-----BEGIN PKCS ?#?7(?: SIGNED DATA)?-----/m,
    what: 'PKCS#7',
    hint: "'openssl pkcs7 -print_certs -in FILE -out chain.pem' writes its certificates as PEM",
  },
  {
    sign: /^-----BEGIN OPENSSH PRIVATE KEY-----|^(?:ssh|ecdsa|sk)-[\w@.-]+ AAAA/m,
    what: 'an SSH key',
    hint: "an SVID is an X.509 certificate; 'ssh-keygen -lf FILE' shows this",
  },
  {
    sign: /^-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED/m,
    what: 'an encrypted private key',
    hint: decrypt('-in FILE'),
  },
  { sign: /^-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----/m, what: 'a private key', hint: belongs },
  {
    sign: /^-----BEGIN (?:RSA )?PUBLIC KEY-----/m,
    what: 'a public key',
    hint: "'openssl pkey -pubin -noout -text -in FILE' shows it",
  },
  {
    sign: /^-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----/m,
    what: 'a request for a certificate',
    hint: "'openssl req -noout -verify -text -in FILE' shows it",
  },
  { sign: /^-----BEGIN X509 CRL-----/m, what: 'a CRL', hint: "'openssl crl -noout -text -in FILE' shows it" },
  {
    sign: /^\s*eyJ[\w-]*\.[\w-]+\.[\w-]*\s*$/,
    what: 'a JWT',
    hint: "'cut -d. -f2 FILE | tr _- /+ | base64 -d 2>/dev/null' prints its claims; a RequestAuthentication says which tokens are accepted",
  },
];

/** What follows the head of the outermost SEQUENCE, in hexadecimal. */
const ders: readonly Form[] = [
  {
    // RFC 7292 section 4: version 3.
    sign: /^020103/,
    what: 'PKCS#12',
    hint: "'openssl pkcs12 -in FILE -nokeys -out chain.pem' writes its certificates as PEM",
  },
  {
    // RFC 5652 section 5.1: signedData.
    sign: /^06092a864886f70d010702/,
    what: 'PKCS#7',
    hint: "'openssl pkcs7 -inform DER -print_certs -in FILE -out chain.pem' writes its certificates as PEM",
  },
  {
    // RFC 2986 section 4: an object that begins with version 0, where a certificate has [0] or a serial number.
    sign: /^30(?:[0-7].|81..|82....)02010030/,
    what: 'a request for a certificate',
    hint: "'openssl req -inform DER -noout -verify -text -in FILE' shows it",
  },
  {
    // RFC 5958 section 3, encrypted by RFC 8018: PBES2.
    sign: /^30(?:[0-7].|81..|82....)06092a864886f70d01050d/,
    what: 'an encrypted private key',
    hint: decrypt('-inform DER -in FILE'),
  },
  // RFC 5958 section 2, RFC 8017 appendix A.1.2, RFC 5915 section 3.
  { sign: /^020100(?:30|02)|^02010104/, what: 'a private key', hint: belongs },
];

/** Undefined for a certificate, and for what is not known. `bytes` one character each. */
export function otherFile(bytes: string, file: string): OtherFile | undefined {
  const found =
    bytes.startsWith('0') && !/^[\t\n\r -~]{16}/.test(bytes)
      ? ders.find(({ sign }) => sign.test(contentOf(bytes)))
      : texts.find(({ sign }) => sign.test(bytes));
  if (found === undefined) return undefined;
  return { what: found.what, hint: found.hint.replaceAll('FILE', () => (file === '-' ? '-' : shellWord(file))) };
}

/** X.690 section 8.1.3: the length is one byte, or a byte that counts those of the length. */
function contentOf(bytes: string): string {
  const first = bytes.charCodeAt(1);
  const at = first < 0x80 ? 2 : 2 + (first & 0x7f);
  return Buffer.from(bytes.slice(at, at + 32), 'latin1').toString('hex');
}
