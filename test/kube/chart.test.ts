// The renderer of the chart that tests use: what it takes, it renders as Helm does, and it refuses the rest. The expected
// texts are those of Helm 3.

import t from 'tap';
import { render, type Values } from '../fixtures/chart.ts';

const values = { name: 'a', count: 2, on: { yes: true, no: false }, text: 'false' };

t.test('values and blocks', async (t) => {
  for (const [template, wanted] of [
    ['x: {{ .Values.name }} {{ .Values.count }} {{ .Values.on.no }}\n', 'x: a 2 false\n'],
    ['a:\n{{- if .Values.on.yes }}\n  b: {{ .Values.name }}\n{{- end }}\nc: 1\n', 'a:\n  b: a\nc: 1\n'],
    ['a:\n{{- if .Values.on.no }}\n  b: 1\n{{- end }}\nc: 1\n', 'a:\nc: 1\n'],
    ['a:\n  {{- if not .Values.on.no }}\n  b: 1\n  {{- end }}\nc: 1\n', 'a:\n  b: 1\nc: 1\n'],
    ['a: {{- if .Values.on.no }} 1\n\n{{- else }} 2{{- end }}\nc: 1\n', 'a: 2\nc: 1\n'],
    ['{{- if .Values.on.yes }}\na: 1\n{{- else }}\nb: 1\n{{- end }}\n', '\na: 1\n'],
    ['{{- if .Values.on.no }}\na: 1\n{{- end }}\n', '\n'],
  ] as const)
    t.equal(render(template, values as Values), wanted, JSON.stringify(template));
});

t.test('anything else is an error', async (t) => {
  for (const template of [
    '{{ .Values.other }}',
    '{{ .Values.on }}',
    '{{ .Values.name | quote }}',
    '{{.Values.name}}',
    '{{- .Values.name }}',
    '{{ .Values.name -}}',
    '{{ if .Values.on.yes }}{{- end }}',
    '{{- if .Values.text }}{{- end }}',
    '{{- if .Values.count }}{{- end }}',
    '{{- if .Values.other }}{{- end }}',
    '{{- if not not .Values.on.yes }}{{- end }}',
    '{{- if eq .Values.name "a" }}{{- end }}',
    '{{- if .Values.on.yes }}',
    '{{- if .Values.on.yes }}{{- if .Values.on.yes }}{{- end }}{{- end }}',
    '{{- if .Values.on.yes }}{{- else }}{{- else }}{{- end }}',
    '{{- else }}',
    '{{- end }}',
    '{{- range .Values.on }}{{- end }}',
    '{{- if .Values.on.no }}{{ .Values.other }}{{- end }}',
    '{{ .Values.name',
  ])
    t.throws(() => render(template, values as Values), Error, template);
});
