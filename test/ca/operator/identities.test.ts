import t from 'tap';
import { allCertificates, mostCertificates } from '../../../cert-agent/ca/operator/identities.ts';

t.test('all certificates are listed, page by page', async (t) => {
  for (const count of [0, 1, mostCertificates - 1, mostCertificates, 2 * mostCertificates + 1]) {
    const all = Array.from({ length: count }, (_, i) => ({
      notAfter: 1000 + (i >> 1),
      serial: String(i).padStart(6, '0'),
    }));
    const asked: object[] = [];
    const list = async (filter: { readonly all: boolean; readonly after?: { readonly serial: string } }) => {
      asked.push(filter);
      const from = filter.after === undefined ? 0 : all.findIndex(({ serial }) => serial === filter.after?.serial) + 1;
      return all.slice(from, from + mostCertificates);
    };
    const found: object[] = [];
    for await (const one of allCertificates({ list }, { all: true })) found.push(one);
    t.strictSame(found, all, `${count}`);
    t.ok(asked.every((one) => (one as { all: boolean }).all));
  }
});
