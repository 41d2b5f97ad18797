// What the first bytes of a connection are.

import t from 'tap';
import { foreignProtocol, sniff } from '../../sidecar/protocol/sniff.ts';

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

t.test('clients of databases', async (t) => {
  const rows: [what: string, bytes: Buffer, protocol: string | undefined][] = [
    ['redis-cli', Buffer.from('*2\r\n$7\r\nCOMMAND\r\n$4\r\nDOCS\r\n'), 'Redis'],
    ['psql: a start-up message', hex('00000054 00030000 75736572'), 'PostgreSQL'],
    ['psql: a request for TLS', hex('00000008 04d2162f'), 'PostgreSQL'],
    ['psql: a request for GSS encryption', hex('00000008 04d21630'), 'PostgreSQL'],
    ['mongosh', hex('3a000000 01000000 00000000 dd070000 00000000'), 'MongoDB'],
    ['HTTP/1.1', Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'), undefined],
    ['OPTIONS *', Buffer.from('OPTIONS * HTTP/1.1\r\n\r\n'), undefined],
    ['HTTP/2', Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), undefined],
    ['TLS', hex('1603010200 010001fc0303'), undefined],
    ['nothing', Buffer.alloc(0), undefined],
    ['a few bytes', hex('000000'), undefined],
    ['zeros', Buffer.alloc(32), undefined],
  ];
  for (const [what, bytes, protocol] of rows) t.equal(foreignProtocol(bytes), protocol, what);
});

t.test('TLS, HTTP/2, and others', async (t) => {
  t.equal(sniff(hex('1603010200 01')), 'tls');
  t.equal(sniff(hex('160301')), undefined);
  t.equal(sniff(Buffer.from('PRI * HT')), undefined);
  t.equal(sniff(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')), 'http2');
  t.equal(sniff(Buffer.from('GET')), 'other');
});
