// Keeps the page of live tasks current. All rows are known, and only those that
// are in sight are drawn: the table is as high as all of them, so that thousands
// scroll as ten do.

import { now, setNow, span } from "./console.js";

const box = document.getElementById("live");
const body = document.getElementById("rows");
const count = document.getElementById("count");
const none = document.getElementById("none");
const lost = document.getElementById("lost");
const find = document.getElementById("find");

const rows = new Map(); // by id
let order = []; // ids that are shown, as a tree
let stale = true; // order must be made anew
let drawing = false;
let arriving = null; // rows of a stream that is not whole yet

/** Orders rows so that each stands below the one it hangs under, newest first. */
function sort() {
	const wanted = find.value.trim().toLowerCase();
	const fits = (r) => !wanted || `${r.profile} ${r.root} ${r.purpose} ${r.last ?? ""} ${r.id}`.toLowerCase().includes(wanted);
	const below = new Map();
	for (const r of rows.values()) {
		const up = r.parent && rows.has(r.parent) ? r.parent : "";
		if (below.has(up)) below.get(up).push(r);
		else below.set(up, [r]);
	}
	order = [];
	const walk = (up, depth) => {
		const list = below.get(up);
		if (!list) return;
		list.sort((a, b) => (a.id < b.id ? 1 : -1));
		for (const r of list) {
			r.at = depth;
			if (fits(r)) order.push(r.id);
			walk(r.id, depth + 1);
		}
	};
	walk("", 0);
	stale = false;
}

function cell(tag, className, ...children) {
	const e = document.createElement(tag);
	if (className) e.className = className;
	e.append(...children);
	return e;
}

const words = { allow: "allowed", deny: "refused", "needs-approval": "waits" };

/** What a row looks like depends on this alone, beside the time. */
function look(r, index) {
	return [r.id, index, r.at, r.profile, r.root, r.purpose, r.verdict, r.last, r.lastAt, r.deadline, r.revoke].join("\n");
}

function makeRow(r, index) {
	const tr = document.createElement("tr");
	tr.look = look(r, index);
	tr.dataset.depth = Math.min(r.at, 6);
	tr.dataset.id = r.id;
	tr.ariaRowIndex = index + 2;
	const link = cell("a", "", r.profile);
	link.href = `/console/tasks/${r.id}`;
	const name = cell("th", "", link, " ", cell("span", "id", `…${r.id.slice(-6)}`));
	name.scope = "row";
	const last = cell("td", "last");
	if (r.last) last.append(cell("span", `pill ${r.verdict}`, words[r.verdict] ?? r.verdict), ` ${r.last}`);
	else last.append("–");
	const left = cell("span", "");
	left.dataset.until = r.deadline;
	left.textContent = span(r.deadline - now());
	const bar = document.createElement("progress");
	bar.max = 1;
	bar.value = Math.max(0, (r.deadline - now()) / (r.deadline - r.opened));
	bar.ariaHidden = "true";
	const end = cell("td", "end");
	if (r.revoke) {
		const stop = cell("a", "button small", "End", cell("span", "unseen", ` ${r.profile} …${r.id.slice(-6)}`));
		stop.href = `/console/tasks/${r.id}/revoke`;
		end.append(stop);
	}
	const purpose = cell("td", "purpose", r.purpose);
	purpose.title = r.purpose;
	last.title = r.last ?? "";
	if (r.fresh && now() - r.fresh < 1200) tr.classList.add("fresh");
	tr.append(name, cell("td", "for", r.root), purpose, last, cell("td", "left", left, bar), end);
	return tr;
}

function gap(height) {
	const tr = document.createElement("tr");
	tr.look = `gap ${height}`;
	tr.className = "gap";
	tr.ariaHidden = "true";
	const td = document.createElement("td");
	td.colSpan = 6;
	td.style.height = `${height}px`;
	tr.append(td);
	return tr;
}

let rowHeight = 0;

function draw() {
	drawing = false;
	if (stale) sort();
	rowHeight ||= parseFloat(getComputedStyle(box).getPropertyValue("--row")) * parseFloat(getComputedStyle(document.documentElement).fontSize);
	const first = Math.max(0, Math.floor(box.scrollTop / rowHeight) - 8);
	const until = Math.min(order.length, Math.ceil((box.scrollTop + Math.max(box.clientHeight, 400)) / rowHeight) + 8);
	const held = document.activeElement?.closest?.("tr[data-id]");
	const heldID = held?.dataset.id;
	const heldAt = held ? [...held.querySelectorAll("a")].indexOf(document.activeElement) : -1;
	// Of hundreds of changes a second few are in sight: a row that looks as it did is
	// left as it is, or each update would lay out all of the table anew (up to 70 ms).
	const before = new Map([...body.children].map((tr) => [tr.look, tr]));
	const list = [];
	if (first > 0) list.push(gap(first * rowHeight));
	for (let i = first; i < until; i++) {
		const r = rows.get(order[i]);
		list.push(before.get(look(r, i)) ?? makeRow(r, i));
	}
	if (until < order.length) list.push(gap((order.length - until) * rowHeight));
	const drawn = new Set(list);
	for (const tr of [...body.children]) if (!drawn.has(tr)) tr.remove();
	let at = body.firstChild;
	for (const tr of list) {
		if (tr === at) at = at.nextSibling;
		else body.insertBefore(tr, at);
	}
	// Whoever was on a link of a row stays there.
	if (heldID) body.querySelector(`tr[data-id="${CSS.escape(heldID)}"]`)?.querySelectorAll("a")[heldAt]?.focus({ preventScroll: true });
	body.parentElement.ariaRowCount = order.length + 1;
	const text = order.length === rows.size ? `${rows.size} live` : `${order.length} of ${rows.size} live`;
	if (count.textContent !== text) count.textContent = text;
	none.hidden = rows.size > 0;
}

/** Draws with the next frame, however often it is asked for before. */
function soon() {
	if (drawing) return;
	drawing = true;
	requestAnimationFrame(draw);
}

box.addEventListener("scroll", soon, { passive: true });
find.addEventListener("input", () => {
	stale = true;
	box.scrollTop = 0;
	soon();
});
addEventListener("resize", () => {
	rowHeight = 0;
	soon();
});

const source = new EventSource("/console/tasks/changes");
source.addEventListener("start", (e) => {
	lost.hidden = true;
	setNow(JSON.parse(e.data).now);
	arriving = new Map();
});
source.addEventListener("rows", (e) => {
	for (const r of JSON.parse(e.data)) {
		if (arriving) {
			arriving.set(r.id, r);
			continue;
		}
		const old = rows.get(r.id);
		if (!old || old.parent !== r.parent) stale = true;
		else r.at = old.at;
		if (!old || old.lastAt !== r.lastAt) r.fresh = now();
		rows.set(r.id, r);
	}
	if (find.value) stale = true;
	if (!arriving) soon();
});
source.addEventListener("whole", () => {
	rows.clear();
	for (const [id, r] of arriving) rows.set(id, r);
	arriving = null;
	stale = true;
	soon();
	document.documentElement.dataset.whole = rows.size;
});
source.addEventListener("gone", (e) => {
	for (const id of JSON.parse(e.data)) {
		if (rows.delete(id)) stale = true;
		arriving?.delete(id);
	}
	if (!arriving) soon();
});
source.addEventListener("now", (e) => setNow(JSON.parse(e.data)));
source.addEventListener("error", () => {
	lost.hidden = false;
	// A server that does not let us in any more answers no stream: the page then asks
	// to sign in.
	if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
});
