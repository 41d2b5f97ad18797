// The cost of screening a request: 1 KB of JSON as an app gets it, a form, a text, and the head of a browser's request.
// The goal is 50 us for 1 KB at paranoia level 1.
//
//   npm run perf:screening

import { screening } from '../sidecar/edge/screening/capability.ts';
import { createExchange, hooksOf, phasesOf, planOf } from '../test/fixtures/exchange.ts';

const order = {
  id: '2eb8aa08-aa98-11ea-b4aa-73b441d16380',
  at: '2026-11-30T08:00:00Z',
  mail: "joe.o'brien@example.test",
  note: "Please leave it at the neighbours' door; I'm home from 5 or 6 pm on.",
  address: { street: "12/3 St. John's Road", city: 'Zürich', country: 'CH' },
  items: Array.from({ length: 7 }, (_, i) => ({
    ...{ sku: 'ABC-12345', count: i + 1, price: 19.99, name: `Blue shoes (men's), size ${i}`, tags: ['a', 'new'] },
  })),
};
const text =
  `Hi Ann, we select the coffee from 7 shops and order by phone. I don't like the old one; it's too big. `.repeat(10);

const plan = await planOf(screening, 'RequestScreening', { mode: 'Block' }, 'sallyport.dev/RequestScreening');
const [inspect] = phasesOf(hooksOf(screening, { RequestScreening: plan })).serve;

interface Sample {
  readonly type: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

const browser = {
  'user-agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8',
  'accept-encoding': 'gzip, deflate, br, zstd',
  'accept-language': 'en-US,en;q=0.9,de;q=0.8',
  cookie: 'sid=8sK2mPq1aB3dE5fG7hJ9; lang=en; _ga=GA1.2.1234567890.1700000000',
  referer: 'https://shop.test/search?q=blue+shoes',
};

const samples: Readonly<Record<string, Sample>> = {
  JSON: { type: 'application/json', body: JSON.stringify(order) },
  form: {
    type: 'application/x-www-form-urlencoded',
    body: new URLSearchParams({ name: "D'Arcy & Sons", note: text.slice(0, 900) }).toString(),
  },
  text: { type: 'text/plain', body: text },
  head: { type: 'text/plain', body: '', headers: browser },
};

function requests({ type, body, headers = {} }: Sample, count: number): (() => unknown)[] {
  const wholeBody = Buffer.from(body);
  return Array.from({ length: count }, () => {
    const known = {
      method: 'POST',
      path: '/v1/orders/7?page=2',
      target: '/v1/orders/7?page=2',
      wholeBody,
      framing: wholeBody.length,
    };
    const { exchange, connection } = createExchange(known, { 'content-type': type, ...headers });
    return () => inspect!(exchange, connection);
  });
}

/** CPU time of this thread, in microseconds: the machine may have other work. */
function cpuUs(): number {
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

/** Microseconds each, the best of twelve runs. */
function best(sample: Sample): number {
  let found = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 12; turn++) {
    const work = requests(sample, 1000);
    const started = cpuUs();
    for (const one of work) one();
    found = Math.min(found, (cpuUs() - started) / work.length);
  }
  return found;
}

console.log('| request | bytes | us | us per KB |\n|---|---|---|---|');
for (const [name, sample] of Object.entries(samples)) {
  const bytes = Buffer.byteLength(sample.body) + Object.entries(sample.headers ?? {}).join('').length;
  const us = best(sample);
  console.log(`| ${name} | ${bytes} | ${us.toFixed(1)} | ${((us * 1024) / bytes).toFixed(1)} |`);
}
