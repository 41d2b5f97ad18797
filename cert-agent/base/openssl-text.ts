// OpenSSL's errors in plain words. As OpenSSL writes them they have thread numbers, function names and source files:
// `C0BC...:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../deps/openssl/...:355:`.

/** By OpenSSL's reason, in lower case; an alert is what the other side says of us. */
const words: Readonly<Record<string, string>> = {
  'wrong version number': 'the other side does not speak TLS',
  'packet length too long': 'the other side does not speak TLS',
  'record layer failure': 'what was received is not TLS',
  'bad record type': 'what was received is not TLS',
  'http request': 'the client speaks plain HTTP, not TLS',
  'https proxy request': 'the client speaks plain HTTP, not TLS',
  'unexpected eof while reading': 'the other side ended the connection',
  'unsupported protocol': 'the two sides have no version of TLS in common',
  'tlsv1 alert protocol version': 'the two sides have no version of TLS in common',
  'no protocols available': 'no version of TLS is allowed',
  'no shared cipher': 'the two sides have no cipher in common',
  'no suitable key share': 'the two sides have no key exchange in common',
  'no suitable groups': 'the two sides have no key exchange in common',
  'no suitable signature algorithm': 'no certificate fits the signature algorithms of the client',
  'sslv3 alert handshake failure': 'the other side found no cipher, key exchange or certificate in common',
  'ssl/tls alert handshake failure': 'the other side found no cipher, key exchange or certificate in common',
  'peer did not return a certificate': 'the client presented no certificate',
  'tlsv13 alert certificate required': 'the other side requires a certificate, and we presented none',
  'tlsv1 alert unknown ca': 'the other side does not know the CA of our certificate',
  'tlsv1 alert no application protocol': 'the other side has no protocol (ALPN) in common with us',
  'tlsv1 alert decrypt error': 'the other side could not verify our signature',
  'tlsv1 alert internal error': 'the other side failed with an internal error',
  'tlsv1 unrecognized name': 'the other side does not serve this server name',
  'bad decrypt': 'it cannot be decrypted with this passphrase',
  'no start line': 'it contains no PEM block',
  'bad end line': 'its PEM block does not end',
  'bad base64 decode': 'its PEM block is not base64',
  'key values mismatch': 'the key does not belong to the certificate',
  'ee key too small': 'the key of the certificate is too short',
  'ca key too small': 'the key of a CA is too short',
  'ca md too weak': 'a CA certificate is signed with a broken hash',
  'certificate verify failed': 'its certificate could not be verified',
};

/** Alerts about our certificate: `sslv3 alert certificate expired`. */
const ofCertificate =
  /^(?:ssl\/tls|sslv3|tlsv1(?:3)?) alert (bad certificate|unsupported certificate|certificate \w+)$/;

const queued = /(?<![0-9A-F])(?:[0-9A-F]{8,32}:)?error:[0-9A-F]{8}:[^:]*:[^:]*:([^:\n]+)(?::[^:\s]*:\d+:[^\n]*)?/g;

/** `text` with each of OpenSSL's errors in it in plain words; an unknown one keeps its reason. */
export function withoutOpenssl(text: string): string {
  // No message of OpenSSL is that long.
  if (!text.includes('error:') || text.length > 4096) return text;
  return text.replace(queued, (_, reason: string) => {
    const key = reason.trim().toLowerCase();
    if (Object.hasOwn(words, key)) return words[key]!;
    const [, about] = ofCertificate.exec(key) ?? [];
    return about === undefined ? `OpenSSL: ${reason.trim()}` : `the other side refuses our certificate (${about})`;
  });
}
