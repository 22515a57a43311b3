// The mesh as this node sees it: the members on a circle, itself on top, and the round trips that it measures. What
// lies between the others it does not know, so nothing is drawn there.

const MESH = { x: 230, y: 162, spreadX: 158, spreadY: 108 };
/** With more members than this there is no room for what each of them does, and with so many for no round trip. */
const CROWD = 9;
const THRONG = 24;

function star(x, y, size) {
  const point = (nth) => {
    const angle = (Math.PI / 5) * nth - Math.PI / 2;
    const far = nth % 2 ? size * 0.45 : size;
    return `${(x + far * Math.cos(angle)).toFixed(1)},${(y + far * Math.sin(angle)).toFixed(1)}`;
  };
  return Array.from({ length: 10 }, (_, nth) => point(nth)).join(" ");
}

/** What a member's circle has in it. */
function mark(member, x, y, size) {
  const half = size * 0.4;
  if (member.status === "down") {
    return drawn("path", { class: "mark", d: `M${x - half} ${y - half}l${2 * half} ${2 * half}m0 ${-2 * half}l${-2 * half} ${2 * half}` });
  }
  if (member.raft === "leader") return drawn("polygon", { class: "mark", points: star(x, y, size * 0.72) });
  return null;
}

function standing(member) {
  if (member.status === "down") return "is-down";
  if (member.raft === "leader" || member.raft === "voter") return "is-voter";
  return member.raft === "learner" ? "is-learner" : "is-plain";
}

function memberFigure(member, at, size, isMe, isCrowd) {
  const group = drawn("g", { class: standing(member) });
  group.append(drawn("title", {}, `${member.peer_id}, ${member.status}, ${member.raft ?? "not in Raft"}, ${roles(member.roles)}`));
  group.append(drawn("circle", { class: "body", cx: at.x, cy: at.y, r: size }));
  if (isMe) group.append(drawn("circle", { class: "me", cx: at.x, cy: at.y, r: size + 5 }));
  const inside = mark(member, at.x, at.y, size);
  if (inside) group.append(inside);
  const isAbove = at.y < MESH.y - 1;
  const more = isMe ? "this node" : isCrowd ? "" : member.status === "down" ? "down" : roles(member.roles);
  const edge = size + (isMe ? 6 : 1);
  const first = isAbove ? at.y - edge - (more ? 20 : 7) : at.y + edge + 14;
  group.append(drawn("text", { class: "peer", x: at.x, y: first }, peer(member.peer_id)));
  if (more) group.append(drawn("text", { class: "sub", x: at.x, y: first + 13 }, more));
  return group;
}

/** Draws it anew where it is another one. */
function drawMesh(svg, members, me, peers) {
  const drawing = JSON.stringify([members.map((m) => [m.peer_id, m.status, m.raft, m.roles]), me, peers.map((p) => [p.peer_id, p.rtt_ms])]);
  if (svg.dataset.drawing === drawing) return;
  svg.dataset.drawing = drawing;
  const own = members.find((member) => member.peer_id === me) ?? { peer_id: me, status: "up", raft: null, roles: [] };
  const others = members.filter((member) => member.peer_id !== me && member.status !== "left");
  const all = [own, ...others];
  const isCrowd = all.length > CROWD;
  const size = isCrowd ? Math.max(4, 15 - all.length / 5) : 16;
  const place = (nth) => {
    const angle = (2 * Math.PI * nth) / all.length - Math.PI / 2;
    return { x: Math.round(MESH.x + MESH.spreadX * Math.cos(angle)), y: Math.round(MESH.y + MESH.spreadY * Math.sin(angle)) };
  };
  const top = place(0);
  const [links, trips, figures] = [drawn("g"), drawn("g"), drawn("g")];
  all.forEach((member, nth) => {
    const at = place(nth);
    figures.append(memberFigure(member, at, size, nth === 0, isCrowd));
    if (nth === 0) return;
    const found = peers.find((candidate) => candidate.peer_id === member.peer_id);
    links.append(drawn("line", { class: found ? "link" : "link is-cut", x1: top.x, y1: top.y, x2: at.x, y2: at.y }));
    const trip = found ? (found.rtt_ms === null ? "" : `${found.rtt_ms} ms`) : "no link";
    if (trip && all.length <= THRONG) {
      trips.append(drawn("text", { class: "trip", x: 0.42 * top.x + 0.58 * at.x, y: 0.42 * top.y + 0.58 * at.y + 4 }, trip));
    }
  });
  svg.replaceChildren(links, trips, figures);
  const lowest = Math.max(...all.map((_, nth) => place(nth).y));
  set(svg, "viewBox", `0 0 460 ${lowest + 62}`);
  const up = others.filter((member) => member.status === "up").length;
  set(svg, "aria-label", `This node and ${plural(others.length, "other member")}, ${up} of them up. The table of members says the same.`);
}
