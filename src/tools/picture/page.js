
// Builds the columns from the embedded data, and lights up what the data says. Text is only ever set as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  // A mount: these places. Groups and ids that are 0 mean none; a class of -1: nobody else receives anything.
  const ID = 0, POINT = 1, ROOT = 2, FS = 3, SOURCE = 4, OPTIONS = 5, PEERS = 6, MASTER = 7, UNBINDABLE = 8, CLASS = 9, COVERED = 10;
  // A row: depth, label, number of the mount or -1, why it is a fold, and which namespace has the same. A class: receivers (mount and way by turns),
  // parts (path, receivers, how many others that are not shown), how many more parts, doubt, how many others. A group: number, colour or null,
  // how many members and slaves it has, shown or not. A way: steps of [is it to a slave, group].
  const DEPTH = 0, LABEL = 1, MOUNT = 2, WHY = 3, OF = 4;
  const { mounts, texts, namespaces, classes, ways } = data;
  const colours = new Map(data.groups.filter((group) => group[1] !== null));
  const sizes = new Map(data.groups.map(([group, , members, slaves]) => [group, { members, slaves }]));
  const ROW = 24, HEAD = 68 + 5, INDENT = 14, DEEPEST = 10, CORNER = 7, WIRES = 260, LISTED = 400;

  const make = (name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const draw = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    return node;
  };
  const byId = (id) => document.getElementById(id);
  const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
  const colour = (group) => (colours.has(group) ? `c${colours.get(group)}` : "alone");
  const point = (m) => texts[mounts[m][POINT]];

  // Where each mount is: its namespace and row. The fold above each row, and the row above it.
  const home = new Array(mounts.length);
  const members = new Map(), slaves = new Map();
  const put = (map, key, value) => (map.has(key) ? map.get(key).push(value) : map.set(key, [value]));
  namespaces.forEach((space, s) => {
    const way = [];
    space.above = space.rows.map((row, r) => {
      way.length = row[DEPTH];
      const above = way.length ? way[way.length - 1] : -1;
      way.push(r);
      if (row[MOUNT] >= 0) home[row[MOUNT]] = [s, r];
      return above;
    });
    // The nearest row above, or itself, that is drawn no deeper than the deepest.
    space.shallow = [];
    space.rows.forEach((row, r) => (space.shallow[r] = row[DEPTH] <= DEEPEST ? r : space.shallow[space.above[r]]));
    space.open = new Set();
    space.size = new Array(space.rows.length).fill(0);
    for (let r = space.rows.length - 1; r >= 0; r--) {
      space.size[r] += space.rows[r][MOUNT] >= 0 ? 1 : 0;
      if (space.above[r] >= 0) space.size[space.above[r]] += space.size[r];
    }
  });
  mounts.forEach((mount, m) => {
    if (mount[PEERS]) put(members, mount[PEERS], m);
    if (mount[MASTER]) put(slaves, mount[MASTER], m);
  });

  // Who receives an event on a mount: [mount, way] of each, and those that receive only what happens at some directory.
  const receivers = (m) => {
    const found = { whole: [], parts: [], more: 0, doubt: null, others: 0 };
    const mount = mounts[m];
    const pairs = (flat) => {
      const out = [];
      for (let i = 0; i < flat.length; i += 2) if (flat[i] !== m) out.push([flat[i], flat[i + 1]]);
      return out;
    };
    if (mount[COVERED]) found.doubt = `No path leads here: mount ${mount[COVERED]} covers it. Nothing can be mounted on it until that is unmounted.`;
    else if (mount[CLASS] >= 0) {
      const [whole, parts, more, doubt, others] = classes[mount[CLASS]];
      found.whole = pairs(whole);
      found.parts = parts.map(([path, flat, others]) => [path, pairs(flat), others]);
      found.others = others;
      found.more = more;
      if (doubt) found.doubt = `This may not be all: ${doubt}.`;
    }
    return found;
  };

  const state = (m) => {
    const mount = mounts[m];
    if (mount[PEERS]) return mount[MASTER] ? "shared and slave" : "shared";
    if (mount[MASTER]) return "slave";
    return mount[UNBINDABLE] ? "unbindable" : "private";
  };
  const inWords = (m) => {
    const mount = mounts[m];
    const words = [];
    if (mount[PEERS]) {
      const others = sizes.get(mount[PEERS]).members - 1, below = sizes.get(mount[PEERS]).slaves;
      words.push((others ? `shared: member of peer group ${mount[PEERS]} with ${counted(others, "other mount")}` : `shared: alone in peer group ${mount[PEERS]}`) + (below ? `, which has ${counted(below, "slave")}` : ""));
    }
    if (mount[MASTER]) words.push(`slave: receives from peer group ${mount[MASTER]}` + (sizes.get(mount[MASTER]).members ? "" : ", of which no mount was seen"));
    if (!words.length) words.push(mount[UNBINDABLE] ? "unbindable: passes nothing on, receives nothing and can't be bound" : "private: passes nothing on and receives nothing");
    else if (mount[UNBINDABLE]) words.push("unbindable");
    return words.join("; ");
  };
  const why = (way) =>
    ways[way]
      .map(([toSlave, group], i) => (toSlave ? `${i ? "from there to a" : "a"} slave of peer group ${group}` : `${i ? "then a" : "a"} peer in group ${group}`))
      .join(", ");

  // The head of the page.
  document.querySelector("h1").textContent = data.title;
  byId("summary").textContent = data.summary;
  const board = byId("board"), columns = byId("columns"), panel = byId("panel"), search = byId("search");
  const wires = draw("svg", { id: "wires", "aria-hidden": "true" });
  columns.append(wires);

  // The columns. The mouse and the keyboard move `at`; `held` stays until it is let go.
  let at = -1, held = -1, unfolded = false, wanted = [], shownWires = [], only = null;

  namespaces.forEach((space, s) => {
    const column = make("section", "column");
    const head = make("div", "head"), box = make("div");
    const title = make("h2", "", space.title);
    title.id = `n${s}`;
    const more = space.moreProcesses ? [`and ${space.moreProcesses} more`] : [];
    box.title = [space.title, space.note, ...space.processes, ...more].join("\n");
    space.count = make("span", "count");
    space.count.hidden = true;
    box.append(space.count, title, make("p", "", space.note));
    head.append(box);
    const tree = make("div", "tree");
    tree.setAttribute("role", "tree");
    tree.setAttribute("aria-labelledby", title.id);
    column.append(head, tree);
    columns.append(column);
    Object.assign(space, { column, tree, number: s, current: 0 });
    // As wide as what is seen before anything is unfolded needs, within bounds.
    let closed = Infinity, cells = 0;
    for (const row of space.rows) {
      if (row[DEPTH] > closed) continue;
      const mount = mounts[row[MOUNT]];
      closed = mount ? Infinity : row[DEPTH];
      const groups = mount ? [PEERS, MASTER].reduce((n, of) => n + (mount[of] ? `${mount[of]}`.length + 4 : 0), Math.min(texts[mount[FS]].length, 11) + 2) : 0;
      cells = Math.max(cells, texts[row[LABEL]].length + groups + Math.min(row[DEPTH], DEEPEST) * 2);
    }
    column.style.width = `${Math.max(240, Math.min(360, cells * 7.3 + 54))}px`;
  });

  // Which rows of a namespace are to be seen, by the filter and the folds.
  const matching = (space) => {
    if (!wanted.length) return null;
    const keep = new Set(), hits = new Set();
    const title = space.title.toLowerCase();
    space.rows.forEach((row, r) => {
      if (row[MOUNT] < 0) return;
      const m = row[MOUNT], mount = mounts[m];
      space.words ??= [];
      const words = (space.words[r] ??= [POINT, ROOT, FS, SOURCE].map((of) => texts[mount[of]]).concat(state(m)).join("\n").toLowerCase());
      const fits = wanted.every((word) => {
        const group = /^group:(\d+)$/.exec(word);
        if (group) return mount[PEERS] === +group[1] || mount[MASTER] === +group[1];
        return words.includes(word) || title.includes(word);
      });
      if (!fits) return;
      hits.add(r);
      for (let up = r; up >= 0 && !keep.has(up); up = space.above[up]) keep.add(up);
    });
    return { keep, hits };
  };

  const fill = (space) => {
    const filter = matching(space);
    space.hits = filter ? filter.hits.size : null;
    space.column.hidden = (filter !== null && filter.hits.size === 0) || (only !== null && !only.has(space));
    space.seen = [];
    space.place = new Array(space.rows.length).fill(-1);
    let hidden = Infinity;
    space.rows.forEach((row, r) => {
      if (row[DEPTH] > hidden) {
        space.place[r] = space.seen.length - 1;
        return;
      }
      hidden = Infinity;
      if (filter && !filter.keep.has(r)) return;
      space.place[r] = space.seen.length;
      space.seen.push(r);
      if (row[MOUNT] < 0 && !filter && !unfolded && !space.open.has(r)) hidden = row[DEPTH];
    });
    space.nodes = space.seen.map((r, i) => makeRow(space, r, i, filter));
    space.tree.replaceChildren(...space.nodes);
    // Not drawn as long as it is scrolled away: a hundred columns cost what a few do.
    space.tree.style.containIntrinsicSize = `auto ${space.nodes.length * ROW + 11}px`;
    if (!space.seen.length && !space.rows.length) space.tree.append(make("p", "none", "No mount could be read."));
    if (!space.seen.includes(space.current)) space.current = space.seen[0] ?? 0;
    const tab = space.nodes[space.place[space.current]];
    if (tab) tab.tabIndex = 0;
  };

  const guides = (space, r, i) => {
    const depth = Math.min(space.rows[r][DEPTH], DEEPEST);
    const svg = draw("svg", { class: "guides", width: 12 + depth * INDENT, height: ROW, "aria-hidden": "true" });
    if (depth) {
      const x = 12 + depth * INDENT - INDENT + 4.5;
      let path = `M${x} 0V12h7`;
      // Lines of the ancestors, and of this row's parent, that go on below.
      for (let up = space.shallow[r]; up >= 0; up = space.above[up]) {
        const d = space.rows[up][DEPTH];
        if (d && space.goesOn[up]) path += `M${12 + (d - 1) * INDENT + 4.5} 0V${ROW}`;
      }
      svg.append(draw("path", { d: path }));
    }
    return svg;
  };

  const makeRow = (space, r, i, filter) => {
    if (i === 0) {
      // Which rows have a later sibling that is seen.
      space.goesOn = new Array(space.rows.length).fill(false);
      const last = new Map();
      for (const one of space.seen) {
        const key = space.above[one];
        if (last.has(key)) space.goesOn[last.get(key)] = true;
        last.set(key, one);
      }
    }
    const row = space.rows[r], m = row[MOUNT], node = make("div", "row");
    node.setAttribute("role", "treeitem");
    node.setAttribute("aria-level", row[DEPTH] + 1);
    node.tabIndex = -1;
    node.dataset.space = space.number;
    node.dataset.row = r;
    node.append(guides(space, r, i));
    const label = texts[row[LABEL]], path = make("span", "path");
    const cut = label.lastIndexOf("/");
    if ((m >= 0 || row[WHY] === "alike") && cut > 0 && cut < label.length - 1) path.append(make("span", "begin", label.slice(0, cut)), make("span", "end", label.slice(cut)));
    else path.append(make("span", m >= 0 ? "end" : "begin", label));
    if (m < 0) {
      node.classList.add("folded");
      node.setAttribute("aria-expanded", String(Boolean(filter) || unfolded || space.open.has(r)));
      node.title = label;
      node.append(make("i", "mark fold"), path);
      return node;
    }
    const mount = mounts[m];
    node.dataset.mount = m;
    if (filter && !filter.hits.has(r)) node.classList.add("context");
    const kind = mount[PEERS] ? "shared" : mount[MASTER] ? "slave" : mount[UNBINDABLE] ? "unbindable" : "private";
    const mark = make("i", `mark ${kind} ${mount[PEERS] || mount[MASTER] ? colour(mount[PEERS] || mount[MASTER]) : ""}`);
    if (mount[PEERS] && mount[MASTER]) mark.append(make("b", colour(mount[MASTER])));
    node.append(mark, path, make("span", "fs", texts[mount[FS]]));
    if (mount[PEERS]) {
      const chip = make("span", `chip peers ${colour(mount[PEERS])}`);
      chip.append(make("span", "", mount[PEERS]));
      node.append(chip);
    }
    if (mount[MASTER]) node.append(make("span", `chip master ${colour(mount[MASTER])}${sizes.get(mount[MASTER]).members ? "" : " unseen"}`, mount[MASTER]));
    node.setAttribute("aria-label", `${point(m)}, ${texts[mount[FS]]}, ${inWords(m)}`);
    return node;
  };

  // The wires. Each end is a place: a column and a line in it.
  const layWires = () => {
    const spot = (m, but) => {
      const [s, r] = home[m];
      const space = namespaces[s];
      if (space.column.hidden || space.place[r] < 0) return null;
      const seen = space.rows[space.seen[space.place[r]]];
      return seen[WHY] === but && seen[MOUNT] < 0 ? null : s * 1e6 + space.place[r];
    };
    const laid = new Map();
    const lay = (from, to, group, toSlave, a, b) => {
      const key = `${from} ${to} ${toSlave}`;
      const old = laid.get(key);
      if (old) {
        old.ends.push([a, b]);
        if (old.group !== group) old.group = 0;
      } else laid.set(key, { from, to, group, toSlave, ends: [[a, b]] });
    };
    for (const [group] of colours) {
      const all = (members.get(group) ?? []).map((m) => [spot(m, "peers"), m]).filter(([p]) => p !== null).sort((a, b) => a[0] - b[0]);
      for (let i = 1; i < all.length; i++) if (all[i - 1][0] !== all[i][0]) lay(all[i - 1][0], all[i][0], group, false, all[i - 1][1], all[i][1]);
      if (!all.length) continue;
      for (const m of slaves.get(group) ?? []) {
        const to = spot(m, "slaves");
        if (to === null) continue;
        let low = 0, high = all.length;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (all[middle][0] <= to) low = middle + 1;
          else high = middle;
        }
        const far = (one) => (one ? Math.abs(Math.floor(one[0] / 1e6) - Math.floor(to / 1e6)) : Infinity);
        const near = far(all[low - 1]) <= far(all[low]) ? all[low - 1] : all[low];
        if (near[0] !== to) lay(near[0], to, group, true, near[1], m);
      }
    }
    shownWires = [...laid.values()];
    // What is folded as the image of another namespace has one wire, from the root there.
    namespaces.forEach((space, s) => {
      if (space.column.hidden) return;
      space.seen.forEach((r, i) => {
        const [, , m, why, of] = space.rows[r], isOpen = r + 1 === space.seen[i + 1];
        if (m >= 0 || isOpen || (why !== "peers" && why !== "slaves") || !namespaces[of].seen.length || namespaces[of].column.hidden) return;
        const ends = [];
        for (let one = r + 1; one < space.rows.length && space.rows[one][DEPTH] > space.rows[r][DEPTH]; one++) ends.push([-1, space.rows[one][MOUNT]]);
        shownWires.push({ from: of * 1e6, to: s * 1e6 + i, group: 0, toSlave: why === "slaves", ends });
      });
    });
    paintWires();
  };

  // The wires between columns that do not stand side by side are led around those between: a line that vanished behind
  // a column and came out again would seem to begin there. Those that leave one line for one group share their way.
  const leadAround = (drawn) => {
    const order = [];
    namespaces.forEach((space, s) => (order[s] = space.column.hidden ? order[s - 1] ?? -1 : (order[s - 1] ?? -1) + 1));
    const shown = namespaces.filter((space) => !space.column.hidden);
    const place = (end) => [order[Math.floor(end / 1e6)], HEAD + (end % 1e6) * ROW + ROW / 2];
    const buses = new Map(), lanes = new Map();
    for (const wire of drawn) {
      const [s, y1] = place(wire.from), [t, y2] = place(wire.to);
      if (Math.abs(s - t) < 2) continue;
      const key = `${wire.from} ${wire.group} ${s < t}`, left = Math.min(s, t), right = Math.max(s, t);
      const bus = buses.get(key) ?? { left, right, y: 0, wires: [] };
      bus.left = Math.min(bus.left, left);
      bus.right = Math.max(bus.right, right);
      for (let at = left + 1; at < right; at++) bus.y = Math.max(bus.y, HEAD + shown[at].seen.length * ROW + 16);
      bus.y = Math.max(bus.y, y1 + 2 * CORNER, y2 + 2 * CORNER);
      bus.wires.push(wire);
      buses.set(key, bus);
    }
    const taken = [];
    for (const bus of buses.values()) {
      let number = taken.findIndex((lane) => lane.every(([left, right]) => right <= bus.left || bus.right <= left));
      if (number < 0) number = taken.push([]) - 1;
      taken[number].push([bus.left, bus.right]);
      for (const wire of bus.wires) lanes.set(wire, { y: bus.y + number * 6, number });
    }
    return lanes;
  };

  const paintWires = () => {
    const left = namespaces.map((space) => space.column.offsetLeft), wide = namespaces.map((space) => space.column.offsetWidth);
    const lit = at < 0 ? null : litNow;
    const on = (m) => m === at || m === -1 || lit.has(m);
    const hot = (wire) => lit !== null && wire.ends.some(([a, b]) => on(a) && on(b));
    const drawn = shownWires.length > (lit === null ? WIRES : WIRES / 2) ? shownWires.filter(hot) : shownWires;
    const lanes = leadAround(drawn);
    const nodes = [];
    let lowest = 0;
    for (const wire of drawn) {
      const s = Math.floor(wire.from / 1e6), t = Math.floor(wire.to / 1e6);
      const y1 = HEAD + (wire.from % 1e6) * ROW + ROW / 2, y2 = HEAD + (wire.to % 1e6) * ROW + ROW / 2;
      const right = s < t;
      const x1 = right || s === t ? left[s] + wide[s] : left[s];
      const x2 = right ? left[t] : left[t] + wide[t];
      const pull = s === t ? 0 : Math.min(120, Math.abs(x2 - x1) / 2) * (right ? 1 : -1);
      const bulge = s === t ? 16 + Math.min(38, Math.abs(y2 - y1) / 5) : 0;
      const far = Math.abs(s - t) > 4 ? " far" : "";
      const classes = `${wire.group ? colour(wire.group) : "bundle"}${hot(wire) ? ` hot${far}` : ""}`;
      const lane = lanes.get(wire);
      let d = `M${x1} ${y1}C${x1 + pull + bulge} ${y1} ${x2 - pull + bulge} ${y2} ${x2} ${y2}`;
      if (lane) {
        const on = right ? 1 : -1, c = CORNER, y = lane.y, shift = (lane.number % 6) * 4;
        const a = x1 + on * (16 + shift), b = x2 - on * (20 + shift);
        d = `M${x1} ${y1}H${a - on * c}Q${a} ${y1} ${a} ${y1 + c}V${y - c}Q${a} ${y} ${a + on * c} ${y}H${b - on * c}Q${b} ${y} ${b} ${y - c}V${y2 + c}Q${b} ${y2} ${b + on * c} ${y2}H${x2}`;
        lowest = Math.max(lowest, y);
      }
      nodes.push(draw("path", {
        class: `wire ${classes}${wire.toSlave ? " to-slave" : ""}${wire.ends.length > 1 ? " many" : ""}`,
        d,
      }));
      if (wire.toSlave) {
        const back = right ? -9 : 9;
        nodes.push(draw("path", { class: `arrow ${classes}`, d: `M${x2 + back} ${y2 - 4.5}L${x2} ${y2}L${x2 + back} ${y2 + 4.5}z` }));
      }
    }
    if (lowest + 24 > columns.offsetHeight) columns.style.minHeight = `${lowest + 24}px`;
    wires.setAttribute("width", columns.offsetWidth);
    wires.setAttribute("height", columns.offsetHeight);
    wires.replaceChildren(...nodes);
  };

  // Lighting up.
  let litNow = new Set(), marked = [];
  const show = (m) => {
    for (const node of marked) {
      node.classList.remove("lit", "part", "source", "pinned");
      node.removeAttribute("aria-current");
    }
    for (const node of columns.querySelectorAll(".in")) node.remove();
    marked = [];
    at = m;
    columns.classList.toggle("active", m >= 0);
    const found = m < 0 ? { whole: [], parts: [] } : receivers(m);
    const whole = new Set(found.whole.map(([one]) => one));
    const part = new Set(found.parts.flatMap(([, all]) => all.map(([one]) => one)));
    litNow = new Set([...whole, ...part]);
    const counts = new Map(), inside = new Map();
    for (const one of litNow) {
      const [s, r] = home[one], space = namespaces[s];
      if (whole.has(one)) counts.set(s, (counts.get(s) ?? 0) + 1);
      const node = space.nodes[space.place[r]];
      if (!node) continue;
      node.classList.add(whole.has(one) ? "lit" : "part");
      marked.push(node);
      if (node.dataset.mount === undefined) inside.set(node, (inside.get(node) ?? 0) + 1);
    }
    for (const [node, n] of inside) node.append(make("span", "in", n));
    namespaces.forEach((space, s) => {
      space.count.hidden = !counts.has(s);
      space.count.textContent = counts.get(s) ?? "";
    });
    if (m >= 0) {
      const [s, r] = home[m], node = namespaces[s].nodes[namespaces[s].place[r]];
      if (node) {
        node.classList.add("source");
        node.classList.toggle("pinned", m === held);
        node.setAttribute("aria-current", String(m === held));
        marked.push(node);
      }
    }
    tell(m, found);
    paintWires();
  };

  const unshown = (others) => `${counted(others, "place")} that ${others === 1 ? "is" : "are"} not shown`;
  const sentence = (m, found) => {
    const spaces = new Set(found.whole.map(([one]) => home[one][0]));
    if (mounts[m][COVERED]) return found.doubt;
    if (found.whole.length) {
      const many = spaces.size > 1 ? ` in ${spaces.size} namespaces` : ` in ${namespaces[[...spaces][0]].title}`;
      const others = found.others ? `, and by ${unshown(found.others)}` : "";
      return `What is mounted here is received by ${counted(found.whole.length, "other mount")}${many}${others}.`;
    }
    if (found.others) return `What is mounted here is received by ${unshown(found.others)}.`;
    const part = found.parts.some(([, all, others]) => all.length || others);
    if (part) return "What is mounted at its root reaches no other mount; what is mounted deeper may, see below.";
    const group = mounts[m][PEERS], linked = group && sizes.get(group).members + sizes.get(group).slaves > 1;
    const shared = linked ? "the mounts that are linked with it do not show its root directory" : group ? "it is shared, but nobody is linked with it" : mounts[m][MASTER] ? "a slave passes nothing on" : `it is ${state(m)}`;
    return `What is mounted here is seen nowhere else: ${shared}.`;
  };

  const tell = (m, found) => {
    if (m < 0) {
      const nodes = [make("h2", "", "Who sees a mount?"), make("p", "", "Point at a mount, or move to it by the keyboard: lit up is who receives what is mounted on it. A click, or Enter, holds on to it.")];
      if (shownWires.length > WIRES) nodes.push(make("p", "", "There are too many links to draw all of them: those of the mount that you point at are drawn."));
      nodes.push(document.querySelector(".signs").cloneNode(true));
      for (const [what, reason] of data.leftOut.slice(0, 50)) {
        if (!nodes.some((node) => node.nodeName === "H3")) nodes.push(make("h3", "", "Not read"));
        nodes.push(make("p", "", `${what}: ${reason}`));
      }
      panel.replaceChildren(...nodes);
      return;
    }
    const mount = mounts[m], facts = make("dl");
    const fact = (name, value) => facts.append(make("dt", "", name), make("dd", "", value));
    fact("propagation", inWords(m));
    fact("file system", texts[mount[FS]]);
    fact("source", texts[mount[SOURCE]]);
    fact("shows", texts[mount[ROOT]]);
    fact("options", texts[mount[OPTIONS]]);
    fact("mount id", mount[ID]);
    const nodes = [make("h2", "", point(m)), make("p", "where", `in ${namespaces[home[m][0]].title}`), facts, make("p", `verdict${found.whole.length || found.others ? " some" : ""}`, sentence(m, found))];
    const spaces = new Set([m, ...litNow].map((one) => namespaces[home[one][0]]));
    if (only || (litNow.size && spaces.size < namespaces.length)) {
      const button = make("button", "only", only ? "Show all namespaces" : `Show only ${spaces.size === 1 ? "this namespace" : `these ${spaces.size} namespaces`}`);
      button.type = "button";
      button.addEventListener("click", () => {
        only = only ? null : spaces;
        if (held < 0) held = m;
        filter();
        panel.querySelector(".only")?.focus();
      });
      nodes.push(button);
    }
    if (found.doubt && !mount[COVERED]) nodes.push(make("p", "doubt", found.doubt));
    let listed = 0;
    const list = (all) => {
      const lists = new Map();
      for (const [one, way] of all) put(lists, home[one][0], [one, way]);
      for (const [s, ones] of [...lists].sort((a, b) => a[0] - b[0])) {
        if (listed >= LISTED) break;
        nodes.push(make("h3", "", namespaces[s].title));
        const list = make("ul");
        for (const [one, way] of ones) {
          if (listed++ >= LISTED) break;
          const item = make("li"), go = make("button");
          go.type = "button";
          go.dataset.go = one;
          go.append(make("code", "", point(one)), make("small", "", why(way)));
          item.append(go);
          list.append(item);
        }
        nodes.push(list);
      }
    };
    list(found.whole);
    for (const [path, all, others] of found.parts) {
      if (!(all.length || others) || listed >= LISTED) continue;
      const full = `${point(m) === "/" ? "" : point(m)}/${path}`;
      nodes.push(make("p", "verdict", `What is mounted at ${full}, or beneath it, is received by ${all.length ? "these" : unshown(others)} as well${all.length && others ? `, and by ${unshown(others)}` : ""}${all.length ? ":" : "."}`));
      list(all);
    }
    if (listed > LISTED) nodes.push(make("p", "", `The first ${LISTED} are listed; all are lit up.`));
    if (found.more) nodes.push(make("p", "", `${counted(found.more, "more directory").replace("directorys", "directories")} beneath it may have receivers of their own.`));
    panel.replaceChildren(...nodes);
    panel.scrollTop = 0;
  };

  const say = (m) => {
    byId("status").textContent = m < 0 ? "" : `${point(m)} in ${namespaces[home[m][0]].title}. ${sentence(m, receivers(m))}`;
  };

  // Moving about.
  const focusRow = (s, place) => {
    const space = namespaces[s], node = space.nodes[Math.max(0, Math.min(place, space.nodes.length - 1))];
    if (!node) return;
    const old = space.nodes[space.place[space.current]];
    if (old) old.tabIndex = -1;
    space.current = +node.dataset.row;
    node.tabIndex = 0;
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const reveal = (m) => {
    const [s, r] = home[m], space = namespaces[s];
    let changed = false;
    for (let up = space.above[r]; up >= 0; up = space.above[up]) if (space.rows[up][MOUNT] < 0 && !space.open.has(up)) changed = space.open.add(up);
    if (space.column.hidden || space.place[r] < 0) {
      search.value = "";
      only = null;
      filter();
    } else if (changed) refill(space);
    focusRow(s, space.place[r]);
  };
  const refill = (space) => {
    fill(space);
    layWires();
    show(held >= 0 ? held : at);
  };
  const toggle = (s, r) => {
    const space = namespaces[s];
    if (wanted.length || unfolded) return;
    if (!space.open.delete(r)) space.open.add(r);
    refill(space);
    focusRow(s, space.place[r]);
  };
  const hold = (m) => {
    held = held === m ? -1 : m;
    show(m);
    say(m);
  };
  const next = (s, step) => {
    for (let to = s + step; to >= 0 && to < namespaces.length; to += step) if (!namespaces[to].column.hidden && namespaces[to].nodes.length) return to;
    return -1;
  };
  const rowOf = (event) => (event.target instanceof Element ? event.target.closest(".row") : null);

  columns.addEventListener("mouseover", (event) => {
    const row = rowOf(event);
    if (held < 0 && row && row.dataset.mount !== undefined && +row.dataset.mount !== at) show(+row.dataset.mount);
  });
  board.addEventListener("mouseleave", () => {
    const row = document.activeElement && document.activeElement.closest(".row[data-mount]");
    if (held < 0) show(row ? +row.dataset.mount : -1);
  });
  columns.addEventListener("focusin", (event) => {
    const row = rowOf(event);
    if (!row) return;
    if (held < 0 && row.dataset.mount !== undefined) {
      if (+row.dataset.mount !== at) show(+row.dataset.mount);
      say(at);
    } else if (held < 0) show(-1);
  });
  columns.addEventListener("click", (event) => {
    const row = rowOf(event);
    if (!row) return;
    const s = +row.dataset.space, r = +row.dataset.row;
    if (row.dataset.mount !== undefined) {
      hold(+row.dataset.mount);
      focusRow(s, namespaces[s].place[r]);
    } else toggle(s, r);
  });
  panel.addEventListener("click", (event) => {
    const go = event.target instanceof Element ? event.target.closest("[data-go]") : null;
    if (!go) return;
    if (held < 0) held = at;
    reveal(+go.dataset.go);
  });

  columns.addEventListener("keydown", (event) => {
    const row = rowOf(event);
    if (!row || event.ctrlKey || event.altKey || event.metaKey) return;
    const s = +row.dataset.space, r = +row.dataset.row, space = namespaces[s], place = space.place[r];
    const isFold = row.dataset.mount === undefined, isOpen = row.getAttribute("aria-expanded") === "true";
    const fixed = wanted.length > 0 || unfolded;
    const across = (step) => {
      const to = next(s, step);
      if (to < 0) return;
      // The same place in the neighbour, if it has that; else the same height.
      const same = isFold ? -1 : namespaces[to].seen.findIndex((one) => namespaces[to].rows[one][MOUNT] >= 0 && mounts[namespaces[to].rows[one][MOUNT]][POINT] === mounts[+row.dataset.mount][POINT]);
      focusRow(to, same >= 0 ? same : place);
    };
    const keys = {
      ArrowDown: () => focusRow(s, place + 1),
      ArrowUp: () => focusRow(s, place - 1),
      PageDown: () => focusRow(s, place + 12),
      PageUp: () => focusRow(s, place - 12),
      Home: () => focusRow(s, 0),
      End: () => focusRow(s, Infinity),
      ArrowRight: () => (isFold && !isOpen && !fixed ? toggle(s, r) : across(1)),
      ArrowLeft: () => (isFold && isOpen && !fixed ? toggle(s, r) : across(-1)),
      Enter: () => (isFold ? toggle(s, r) : hold(+row.dataset.mount)),
      " ": () => (isFold ? toggle(s, r) : hold(+row.dataset.mount)),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });

  let turn = -1;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const typing = event.target === search;
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape") {
      if (byId("help").open) byId("help").open = false;
      else if (only && !typing) {
        only = null;
        filter();
      } else if (held >= 0 && !typing) {
        held = -1;
        const row = document.activeElement && document.activeElement.closest(".row[data-mount]");
        show(row ? +row.dataset.mount : -1);
        say(at);
      } else if (search.value) {
        search.value = "";
        filter();
      } else if (typing) search.blur();
      else show(-1);
    } else if ((event.key === "n" || event.key === "N") && !typing && at >= 0) {
      const all = [...litNow].sort((a, b) => a - b);
      if (!all.length) return;
      if (held < 0) {
        held = at;
        turn = -1;
      }
      turn = event.key === "n" ? (turn + 1) % all.length : (turn <= 0 ? all.length : turn) - 1;
      reveal(all[turn]);
    } else if (typing && (event.key === "Enter" || event.key === "ArrowDown")) {
      event.preventDefault();
      const s = next(-1, 1);
      if (s >= 0) focusRow(s, Math.max(0, namespaces[s].nodes.findIndex((node) => node.dataset.mount !== undefined && !node.classList.contains("context"))));
    }
  });

  const filter = () => {
    wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    namespaces.forEach(fill);
    const spaces = namespaces.filter((space) => space.hits);
    const hits = spaces.reduce((sum, space) => sum + space.hits, 0);
    byId("found").textContent = wanted.length ? `${counted(hits, "mount")} in ${counted(spaces.length, "namespace")}` : "";
    layWires();
    show(held >= 0 ? held : -1);
  };
  let soon = 0;
  search.addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(filter, 60);
  });
  byId("unfold").addEventListener("click", (event) => {
    unfolded = !unfolded;
    event.currentTarget.setAttribute("aria-pressed", String(unfolded));
    filter();
  });
  addEventListener("resize", () => paintWires());

  filter();
})();
