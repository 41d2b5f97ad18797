// What an event that was cut says of its object: a table.

import t from 'tap';
import { fieldsOf } from '../../sidecar/cluster/cut-event.ts';

const none = { type: undefined, kind: undefined, name: undefined, namespace: undefined, resourceVersion: undefined };

const metadata = { name: 'a', namespace: 'shop', resourceVersion: '7' };
const whole = JSON.stringify({ type: 'ADDED', object: { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: {} } });
const all = { type: 'ADDED', kind: 'ConfigMap', name: 'a', namespace: 'shop', resourceVersion: '7' };

const heads: Readonly<Record<string, [string, object]>> = {
  'a whole event': [whole, all],
  'one whose data is cut': [whole.slice(0, -4), all],
  'one that is cut in a name': [
    whole.slice(0, whole.indexOf('"a"') + 2),
    { ...none, type: 'ADDED', kind: 'ConfigMap' },
  ],
  nothing: ['', none],
  'no JSON': ['<html>"type":"ADDED"', none],
  'a string': ['"type"', none],
  'an array': ['["type","ADDED"]', none],
  'names of other depths': [
    '{"name":"x","object":{"name":"x","spec":{"name":"x","metadata":{"name":"x"}},"metadata":{"labels":{"name":"x"},"ownerReferences":[{"name":"x"}],"finalizers":["name","x"],"name":"a"}',
    { ...none, name: 'a' },
  ],
  'text that looks like JSON': [
    String.raw`{"object":{"metadata":{"annotations":{"a":"\"},\"name\":\"x\\"},"name":"a"`,
    { ...none, name: 'a' },
  ],
  'spaces and numbers': [
    '{ "type" : "ADDED" , "n" : [ 1 , { } ] , "object" : { "kind" : "Secret" ',
    { ...none, type: 'ADDED', kind: 'Secret' },
  ],
};

for (const [what, [head, expected]] of Object.entries(heads))
  t.test(what, async (t) => {
    t.strictSame(fieldsOf({ head }), expected);
  });

t.test('every cut of an event gives a part of it', async (t) => {
  for (let end = 0; end <= whole.length; end++) {
    const found = fieldsOf({ head: whole.slice(0, end) });
    for (const [field, text] of Object.entries(found))
      if (text !== undefined && text !== all[field as keyof typeof all]) t.fail(`${field} ${text} at ${end}`);
  }
  t.pass();
});
