// Keeps the page of live tasks open in a real browser while thousands are live and
// hundreds change each second, scrolls in it, and says what that cost, one JSON
// object a line.
//
//	node load.mjs --console URL --tasks N --rounds R --seconds S --chromium PATH

import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: flags } = parseArgs({
	options: { console: { type: "string" }, tasks: { type: "string" }, rounds: { type: "string" }, seconds: { type: "string" }, chromium: { type: "string" } },
});
const say = (o) => console.log(JSON.stringify(o));
const browser = await chromium.launch({ executablePath: flags.chromium, args: process.getuid() === 0 ? ["--no-sandbox"] : [] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
await page.goto(`${flags.console}/console/sign-in`);
await page.waitForURL(`${flags.console}/console/`);

await page.addInitScript(() => {
	globalThis.blocked = [];
	new PerformanceObserver((list) => {
		for (const e of list.getEntries()) globalThis.blocked.push(Math.round(e.duration));
	}).observe({ type: "longtask" });
});
const began = performance.now();
await page.goto(`${flags.console}/console/tasks`);
await page.waitForFunction((n) => Number(document.documentElement.dataset.whole) >= n, Number(flags.tasks), { timeout: 120_000 });
say({ figure: "all rows known", value: Math.round(performance.now() - began), unit: "ms" });
say({ figure: "blocked while loading", value: Math.max(0, ...(await page.evaluate(() => globalThis.blocked.splice(0)))), unit: "ms" });

const client = await page.context().newCDPSession(page);
await client.send("HeapProfiler.enable");
async function heap() {
	await client.send("HeapProfiler.collectGarbage");
	return (await client.send("Runtime.getHeapUsage")).usedSize;
}

// One frame after the other, for as long as it takes: what comes in between is counted.
await page.evaluate(() => {
	globalThis.frames = [];
	let last = performance.now();
	const next = (at) => {
		globalThis.frames.push(at - last);
		last = at;
		requestAnimationFrame(next);
	};
	requestAnimationFrame(next);
	globalThis.changes = 0;
	new MutationObserver(() => globalThis.changes++).observe(document.getElementById("rows"), { childList: true });
});

for (let round = 1; round <= Number(flags.rounds); round++) {
	const until = performance.now() + Number(flags.seconds) * 1000;
	while (performance.now() < until) {
		await page.evaluate(() => {
			const box = document.getElementById("live");
			box.scrollTop = Math.random() < 0.2 ? Math.random() * box.scrollHeight : box.scrollTop + 300;
		});
		await page.waitForTimeout(250);
	}
	const held = await heap();
	const { blocked, frames, changes } = await page.evaluate(() => ({ blocked: globalThis.blocked.splice(0), frames: globalThis.frames.splice(0), changes: globalThis.changes }));
	frames.sort((a, b) => a - b);
	say({
		round, longest: Math.max(0, ...blocked), over50: blocked.length, redraws: changes, heap: held,
		frame99: Math.round(frames[Math.floor(frames.length * 0.99)]), rows: await page.locator("#rows tr").count(), live: await page.locator("#count").innerText(),
	});
}
say({ done: true });
await browser.close();
