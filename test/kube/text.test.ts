// Documents as text: what is not changed stays byte for byte, and what YAML can express is read as kubectl reads it.

import t from 'tap';
import { injectText, uninjectText } from '../../sidecar/kube/text.ts';
import { type Any, documentsOf, options, workloadsText } from '../fixtures/kube.ts';

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web # the shop window
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
        # the app
        - name: web
          image: web:1
          ports:
            - name: http
              containerPort: 8080
          volumeMounts:
            - name: data
              mountPath: /data
      volumes:
        - name: data
          secret:
            secretName: data
            defaultMode: 0440
`;
const configMap = 'apiVersion: v1\nkind: ConfigMap\ndata: {a:   "b"}   # odd   spaces\n';

const run = (text: string): string => injectText(text, 'x.yaml', options).text;
const back = (text: string): string => uninjectText(text, 'x.yaml', 'shop').text;

t.test('comments and styles of a changed document stay; the others stay byte for byte', async (t) => {
  const text = `# head\n${configMap}---\n${deployment}---\n${configMap}---\n# nothing\n---\n`;
  const done = run(text);
  t.match(done, '# the shop window');
  t.match(done, '# the app');
  t.match(done, 'defaultMode: 0440', 'octal, as kubectl reads it');
  const parts = done.split(/^---\n/m);
  t.equal(parts[0], `# head\n${configMap}`);
  t.equal(parts[2], configMap);
  t.strictSame(parts.slice(3), ['# nothing\n', '']);
  t.equal(run(done), done, 'twice is once');
  t.equal(back(done), text, 'and back, to the byte');
});

t.test('thirty workloads as text', async (t) => {
  const done = run(workloadsText);
  t.equal(run(done), done, 'twice is once');
  t.strictSame(documentsOf(back(done)), documentsOf(workloadsText));
  t.match(done, '# A job by the clock.');
});

t.test('documents of different styles in one text are printed as each by itself', async (t) => {
  const shape = (indent: number, isDense: boolean, flow: boolean): string => {
    const pad = (depth: number): string => ' '.repeat(depth * indent);
    const item = isDense ? 0 : 1;
    const image = flow ? `- { name: web, image: "web:1" }` : `- name: web\n${pad(3 + item)}  image: web:1`;
    return `kind: Deployment\nmetadata:\n${pad(1)}name: web\nspec:\n${pad(1)}template:\n${pad(2)}spec:\n${pad(3)}containers:\n${pad(3 + item)}${image}\n`;
  };
  const all = [2, 4].flatMap((indent) =>
    [false, true].flatMap((isDense) => [false, true].map((flow) => shape(indent, isDense, flow))),
  );
  const apart = all.map(run);
  t.equal(new Set(apart).size, all.length);
  t.equal(run([...all, ...all].join('---\n')), [...apart, ...apart].join('---\n'));
});

t.test('a string that could be read as something else is quoted', async (t) => {
  for (const word of ['y', 'no', 'off', 'null', 'true', 'yes-1', '0x1a', '1e3', '12-a', 'http']) {
    const text = deployment.replace('name: http', `name: "${word}"`);
    const names = (documentsOf(run(text))[0] as Any).spec.template.spec.initContainers[0].ports.map(
      ({ name }: Any) => name,
    );
    t.strictSame(names, [word, 'sallyport-ready']);
  }
});

t.test('CRLF, a Windows editor’s, is kept', async (t) => {
  const text = deployment.replaceAll('\n', '\r\n');
  const done = run(text);
  t.match(done, /name: sallyport-proxy\r\n/);
  t.notMatch(done, /[^\r]\n/);
  t.equal(back(done), text);
});

t.test('anchors and merge keys: the change does not leak to other places', async (t) => {
  const text = `apiVersion: v1
kind: List
common: &common { image: web, ports: &ports [{ name: http, containerPort: 8080 }] }
items:
  - apiVersion: v1
    kind: Pod
    metadata: { name: a }
    spec: { containers: [{ name: a, <<: *common }] }
  - apiVersion: v1
    kind: Pod
    metadata: { name: b, labels: { sidecar.istio.io/inject: "false" } }
    spec: { containers: [{ name: b, image: b, ports: *ports }] }
`;
  const [list] = documentsOf(run(text));
  const [a, b] = list.items;
  t.strictSame(a.spec.containers[0].ports, [{ containerPort: 8080 }]);
  t.strictSame(b.spec.containers[0].ports, [{ name: 'http', containerPort: 8080 }]);
  t.strictSame(documentsOf(back(run(text))), documentsOf(text));
});

t.test('a List, and JSON', async (t) => {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'a' },
    spec: { containers: [{ name: 'a', image: 'a' }] },
  };
  const text = JSON.stringify(
    { apiVersion: 'v1', kind: 'List', items: [pod, { kind: 'Secret' }, { kind: 'PodList', items: [pod] }] },
    null,
    4,
  );
  const done = injectText(text, 'x.json', options);
  const list: Any = JSON.parse(done.text);
  t.equal(list.items[0].spec.initContainers[0].name, 'sallyport-proxy');
  t.equal(list.items[2].items[0].spec.initContainers[0].name, 'sallyport-proxy');
  t.strictSame(list.items[1], { kind: 'Secret' });
  t.strictSame(
    done.results.map(({ outcome }) => outcome),
    ['changed', 'left_alone', 'changed'],
  );
  t.match(done.text, /\n {4}"kind"/, 'with its indentation');
  t.strictSame(JSON.parse(back(done.text)), JSON.parse(text));
});

t.test('what YAML 1.1 and 1.2 read differently', async (t) => {
  const text = `apiVersion: v1
kind: Pod
metadata: { name: odd, annotations: { a: "yes", b: "0123", c: "1:30", d: "null", e: "2001-01-01", f: on, g: 12:30 } }
spec:
  containers:
    - &c { name: a, image: a, env: [{ name: A, value: "no" }, { name: B, value: "1e3" }] }
  x: [*c]
`;
  // With an alias the document is written anew: its strings must stay strings to kubectl.
  const [one] = documentsOf(run(text));
  const before = documentsOf(text)[0];
  for (const key of ['a', 'b', 'c', 'd', 'e', 'f', 'g'])
    t.strictSame(one.metadata.annotations[key], key === 'g' ? '12:30' : before.metadata.annotations[key], key);
  t.strictSame(one.spec.containers[0].env, before.spec.containers[0].env);
});

t.test('what is no YAML, and what is too large', async (t) => {
  for (const [text, expected] of [
    [`${configMap}---\nspec: {containers: [\n`, /^x\.yaml:[5-7]: /],
    ['containers: a: b\n', /^x\.yaml:1: /],
    ['containers: *nothing\n', /x\.yaml:1: .*nothing/],
    [
      'a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\ncontainers: [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n',
      /alias/,
    ],
    [`kind: Pod\nspec:\n  containers: ["${'x'.repeat(9_000_000)}"]\n`, /more than 8 MB/],
    ['containers: 1\ncontainers: 2\n', /unique/],
    [
      `{"kind":"Pod","apiVersion":"v1","spec":{"containers":[],"x":${'['.repeat(50_000)}${']'.repeat(50_000)}}}`,
      /^x\.yaml:1: a document is nested too deeply/,
    ],
    [`${'{"kind":"List","items":['.repeat(20_000)}${']}'.repeat(20_000)}`, /nested too deeply/],
  ] as const) {
    t.throws(() => run(text), { code: 'config_invalid', message: expected }, text.slice(0, 40));
  }
  const unquoted = 'kind: Pod\nspec:\n  a: { b: request.headers[x] }\n  containers: []\n';
  const place = { line: configMap.split('\n').length + 3, column: 26, hint: 'quote it: "request.headers[x]"' };
  const asked = { code: 'config_invalid', problems: [place] };
  t.throws(() => run(`${configMap}---\n${unquoted}`), asked);
  const large = `apiVersion: v1\nkind: ConfigMap\nmetadata: { name: large }\ndata:\n  a: ${'x'.repeat(50_000_000)}\n`;
  const started = performance.now();
  const done = injectText(`${large}---\n${deployment}`, 'x.yaml', options);
  t.ok(done.text.startsWith(large), '50 MB that are no workload are passed on unread');
  t.match(done.results[0], { outcome: 'left_alone', name: { kind: 'ConfigMap', name: 'large' } });
  t.ok(performance.now() - started < 60_000);
  t.equal(run(''), '');
  t.equal(run('# only a comment\n'), '# only a comment\n');
  t.equal(run('just a word\n'), 'just a word\n');
  t.equal(run('- containers: 1\n'), '- containers: 1\n');
});

t.test('a line of dashes in a text is no new document', async (t) => {
  const text = `${configMap.replace(/data.*/, 'data:\n  a: |\n    ---\n    containers: x')}---\n${deployment}`;
  t.equal(injectText(text, 'x.yaml', options).results.length, 2);
});
