// What every page does with a script: times in the reader's own zone, and time
// left that shrinks, by the server's clock and not the browser's.

const root = document.documentElement;
root.classList.add("scripted");

let ahead = Number(root.dataset.now) - Date.now();

/** The server's time now, in milliseconds. */
export function now() {
	return Date.now() + ahead;
}

/** Takes over what the server says its time is. */
export function setNow(at) {
	ahead = at - Date.now();
}

/** A duration in the two units that matter. */
export function span(ms) {
	const s = Math.max(0, Math.floor(ms / 1000));
	if (s < 60) return `${s} s`;
	const m = Math.floor(s / 60);
	if (m < 60) return `${m} m ${s % 60} s`;
	const h = Math.floor(m / 60);
	return h < 48 ? `${h} h ${m % 60} m` : `${Math.floor(h / 24)} days`;
}

const sameDay = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const otherDay = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

for (const t of document.querySelectorAll("time[datetime]")) {
	const at = new Date(t.dateTime);
	t.title = t.textContent;
	t.textContent = (at.toDateString() === new Date().toDateString() ? sameDay : otherDay).format(at);
}

function tick() {
	for (const e of document.querySelectorAll("[data-until]")) {
		const text = span(Number(e.dataset.until) - now());
		if (e.textContent !== text) e.textContent = text;
	}
}
setInterval(tick, 1000);

// Arrows move between the requests of the inbox, while one of them has the focus.
const inbox = document.getElementById("inbox");
if (inbox) {
	const asks = [...inbox.querySelectorAll("a.ask")];
	inbox.addEventListener("keydown", (e) => {
		const at = asks.indexOf(document.activeElement);
		const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
		if (at < 0 || !step) return;
		e.preventDefault();
		asks[Math.min(asks.length - 1, Math.max(0, at + step))].focus();
	});
	asks[0]?.focus();
}
