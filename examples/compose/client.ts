// The tour's clients, run inside a container. Takes one job as JSON and prints its outcome as JSON.
//
//   node client.ts '{"ask":{"port":15001,"host":"orders"}}'

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Answer, ask, goDirectly, type Question, readCredential } from '../two-services/demo/ask.ts';
import { startLoad } from '../two-services/demo/load.ts';

/** `direct` connects to the mutual-TLS port of orders, with the certificate of a directory or without one. */
export type Job =
  | { readonly ask: Question }
  | { readonly direct: { readonly identity?: string; readonly trust: string } }
  | { readonly load: { readonly port: number; readonly seconds: number } };

/** `error` is what the client got instead of a response. */
export type Outcome = Answer | { readonly error: string } | { readonly requests: number; readonly failures: string[] };

process.stdout.write(`${JSON.stringify(await outcomeOf(JSON.parse(process.argv[2] ?? '{}') as Job))}\n`);

async function outcomeOf(job: Job): Promise<Outcome | object> {
  try {
    if ('ask' in job) return await ask(job.ask);
    if ('direct' in job) return await askDirectly(job.direct);
    const load = startLoad(job.load.port);
    await new Promise((resolve) => setTimeout(resolve, job.load.seconds * 1000));
    return await load.stop();
  } catch (error) {
    return { error: (error as NodeJS.ErrnoException).code ?? String(error) };
  }
}

async function askDirectly({ identity, trust }: { identity?: string; trust: string }): Promise<Answer> {
  const credential = identity === undefined ? {} : readCredential(identity);
  const direct = goDirectly({ host: 'orders', port: 15_006 }, 'spiffe://demo.test/ns/shop/sa/orders', {
    ...credential,
    trust: readFileSync(join(trust, 'bundle.pem'), 'utf8'),
  });
  return await direct.ask().finally(direct.end);
}
