// A line is what JSON.stringify would make of its values, in ASCII, and has nothing of the line before it.

import t from 'tap';
import { writeLatin1 } from '../../cert-agent/base/latin1.ts';
import { LogLine } from '../../sidecar/observe/log-line.ts';

const line = new LogLine();

t.test('values are escaped as JSON requires, and everything else than ASCII as well', async (t) => {
  const values = ['a', 'a"b', 'a\\b', '\n\r\t\0', '\x7f\x80\xff', '\u2028\ud800', 'x'.repeat(41), `${'y'.repeat(99)}"`];
  for (const value of values) {
    const text = line.clear().text(value).toString();
    t.match(text, /^[ -~]*$/);
    t.equal(JSON.parse(text), value);
  }
  for (const nothing of [undefined, '', '-']) {
    t.equal(line.clear().text(nothing).toString(), 'null');
    t.equal(line.clear().own(nothing).toString(), 'null');
  }
});

t.test('counts are whole numbers in decimal', async (t) => {
  const counts = [0, 9, 10, 99, 100, 101, 110, 999, 1000, 1039, 2 ** 31, 2 ** 40];
  for (const count of counts) t.equal(line.clear().count(count).toString(), String(count));
  for (const none of [Number.NaN, -1, 1.5e21, Number.POSITIVE_INFINITY, 1000.5])
    t.equal(line.clear().count(none).toString(), '0', 'a line stays JSON');
  for (let i = 0; i < 1100; i++) if (line.clear().count(i).toString() !== String(i)) t.fail(String(i));
});

t.test('a line longer than its bytes grows, and a shorter one behind it is alone', async (t) => {
  const long = 'z'.repeat(100_000);
  t.equal(line.clear().raw('[').text(long).raw(',').count(7).raw(']').toString(), `["${long}",7]`);
  t.equal(line.clear().raw('short').toString(), 'short');
  t.equal(line.length, 5);
  const edge = new LogLine();
  for (let i = 0; i < 4093; i++) edge.raw('.');
  t.equal(edge.own('ab').count(1).toString(), `${'.'.repeat(4093)}"ab"1`);
});

t.test('a piece that was put together or cut out of another is written as it reads', async (t) => {
  const whole = ['GET /orders', ' HTTP/1.1 and more than forty characters in all'].join('');
  t.equal(
    line.clear().own(whole.slice(4, 40)).raw(`${whole}${whole}`).toString(),
    `"${whole.slice(4, 40)}"${whole}${whole}`,
  );
  const bytes = Buffer.alloc(4, 0x2e);
  t.equal(writeLatin1(bytes, '\u00e9\u0101', 1), 2, 'the low byte of each character');
  t.equal(bytes.toString('latin1'), '.\u00e9\u0001.');
});
