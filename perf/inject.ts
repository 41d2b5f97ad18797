// `npm run perf:inject`: what injection costs, for 1,000 documents as values, as YAML and as JSON, and for one pod of the
// webhook. Times are of this process's processors (user and system), which other processes do not distort.

import { type InjectOptions, inject, injectPodPatch } from '../sidecar/kube/inject.ts';
import { injectText } from '../sidecar/kube/text.ts';

const options: InjectOptions = {
  trustDomain: 'demo.test',
  caUrl: 'https://sallyport-ca.sallyport-system.svc:15012',
  caBundle: `-----BEGIN CERTIFICATE-----\n${'A'.repeat(600)}\n-----END CERTIFICATE-----\n`,
  image: 'sallyport:perf',
  audience: 'sallyport-ca',
  namespace: 'shop',
};

const yamlOf = (i: number): string => `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-${i}
spec:
  replicas: 3
  selector:
    matchLabels:
      app: web-${i}
  template:
    metadata:
      labels:
        app: web-${i}
    spec:
      containers:
        - name: web
          image: web:1
          ports:
            - name: http
              containerPort: 8080
          readinessProbe:
            httpGet:
              path: /ready
              port: http
          resources:
            requests:
              cpu: 100m
`;

const podOf = (i: number): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { generateName: `web-${i}-`, labels: { app: `web-${i}` } },
  spec: {
    containers: [
      {
        ...{ name: 'web', image: 'web:1', ports: [{ name: 'http', containerPort: 8080 }] },
        readinessProbe: { httpGet: { path: '/ready', port: 'http' } },
      },
    ],
  },
});

const count = 1000;
const documents = Array.from({ length: count }, (_, i) => podOf(i));
const yaml = Array.from({ length: count }, (_, i) => yamlOf(i)).join('---\n');
const json = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: documents });

function measure(what: string, work: () => unknown, times = 3): void {
  const spans: string[] = [];
  for (let i = 0; i < times; i++) {
    const [before, started] = [process.cpuUsage(), performance.now()];
    work();
    const { user, system } = process.cpuUsage(before);
    spans.push(`${((user + system) / 1000).toFixed(0)} (${(performance.now() - started).toFixed(0)} by the clock)`);
  }
  console.log(`${what}: ${spans.join(', ')} ms`);
}

measure(`${count} pods as values`, () => inject(documents, options));
measure(`${count} patches of a webhook`, () => documents.map((one) => injectPodPatch(one, options)));
measure(`a List of ${count} pods, JSON`, () => injectText(json, 'x.json', options));
measure(`${count} Deployments, YAML of ${(yaml.length / 1024).toFixed(0)} KB`, () =>
  injectText(yaml, 'x.yaml', options),
);
