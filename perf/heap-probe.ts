// Loaded into a proxy before its own code. On request, it sends its parent the bytes that the main thread's heap has
// allocated since the last request. Node 24 has no counter for this, so it adds up V8's figures: the heap before each
// collection minus the heap after the previous one. A probed process is not used for other measures, since the profiler
// costs CPU time.

import { GCProfiler, getHeapStatistics } from 'node:v8';
import { isMainThread } from 'node:worker_threads';

const used = (): number => getHeapStatistics().used_heap_size;

if (isMainThread && process.send !== undefined) {
  let profiler = new GCProfiler();
  let before = used();
  profiler.start();
  process.on('message', () => {
    const now = used();
    const { statistics } = profiler.stop();
    profiler = new GCProfiler();
    profiler.start();
    let bytes = 0;
    for (const { beforeGC, afterGC } of statistics) {
      bytes += beforeGC.heapStatistics.usedHeapSize - before;
      before = afterGC.heapStatistics.usedHeapSize;
    }
    bytes += now - before;
    before = used();
    process.send!(bytes);
  });
  // The channel must not keep the proxy alive.
  process.channel!.unref();
}
