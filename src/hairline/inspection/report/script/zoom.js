// --- zoom and pan of a sheet inside a stage

// Scale and offset of a sheet that lies in a stage; wheel, fingers and dragging change them.
class Zoom {
  // `changed` is called with the zoom whenever the sheet must be placed anew.
  constructor(stage, changed, most = 24) {
    Object.assign(this, { stage, changed, most, scale: 1, x: 0, y: 0, base: { x: 0, y: 0, width: 1, height: 1 } });
    this.pointers = new Map();
    this.dragged = false;
    stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.onDown(event));
    stage.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    // The click at the end of a drag chooses nothing.
    stage.addEventListener("click", (event) => { if (this.dragged) event.stopPropagation(); }, true);
  }

  // Fit a sheet with these proportions into the stage, and show all of it.
  fit(width, height) {
    const stage = this.stage.getBoundingClientRect();
    const factor = Math.min(stage.width / width, stage.height / height);
    const size = { width: width * factor, height: height * factor };
    this.base = { x: (stage.width - size.width) / 2, y: (stage.height - size.height) / 2, ...size };
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.changed(this);
  }

  // Zoom by a factor; the point of the stage stays where it is.
  by(factor, point = this.middle()) {
    const scale = Math.min(this.most, Math.max(1, this.scale * factor));
    const ratio = scale / this.scale;
    const across = point.x - this.base.x, down = point.y - this.base.y;
    this.scale = scale;
    this.move(across - (across - this.x) * ratio - this.x, down - (down - this.y) * ratio - this.y);
  }

  move(across, down) {
    const stage = this.stage.getBoundingClientRect();
    this.x = Zoom.clamp(this.x + across, this.base.x, this.base.width * this.scale, stage.width);
    this.y = Zoom.clamp(this.y + down, this.base.y, this.base.height * this.scale, stage.height);
    this.changed(this);
  }

  // Show a box of the sheet, given in shares of its width and height.
  showBox(box) {
    const stage = this.stage.getBoundingClientRect();
    const width = Math.max(box.width * this.base.width, 1), height = Math.max(box.height * this.base.height, 1);
    this.scale = Math.min(this.most, Math.max(1, 0.7 * Math.min(stage.width / width, stage.height / height)));
    this.x = stage.width / 2 - this.base.x - (box.x + box.width / 2) * this.base.width * this.scale;
    this.y = stage.height / 2 - this.base.y - (box.y + box.height / 2) * this.base.height * this.scale;
    this.move(0, 0);
  }

  // Where a point of the window lies on the sheet, in shares of its width and height.
  share(clientX, clientY) {
    const point = this.point({ clientX, clientY });
    return {
      x: (point.x - this.base.x - this.x) / (this.base.width * this.scale),
      y: (point.y - this.base.y - this.y) / (this.base.height * this.scale),
    };
  }

  // A sheet smaller than the stage stays in its middle; a larger one leaves no gap at the border.
  static clamp(offset, base, size, room) {
    if (size <= room) return (room - size) / 2 - base;
    return Math.min(-base, Math.max(room - size - base, offset));
  }

  middle() {
    const stage = this.stage.getBoundingClientRect();
    return { x: stage.width / 2, y: stage.height / 2 };
  }

  point(event) {
    const stage = this.stage.getBoundingClientRect();
    return { x: event.clientX - stage.left, y: event.clientY - stage.top };
  }

  onWheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 30 : 1);
    // Browsers report a pinch on a touch pad as a wheel with Ctrl and small steps.
    this.by(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.002)), this.point(event));
  }

  onDown(event) {
    if (!this.pointers.size) this.dragged = false;
    this.pointers.set(event.pointerId, this.point(event));
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.point(event);
    const [across, down] = [now.x - before.x, now.y - before.y];
    if (!this.dragged && Math.hypot(across, down) < 5) return;
    this.dragged = true;
    // Only now: a captured pointer would send its click to the stage instead of the trace under it.
    this.stage.setPointerCapture(event.pointerId);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const distance = (point) => Math.max(1, Math.hypot(point.x - other.x, point.y - other.y));
      const centre = { x: (before.x + other.x) / 2, y: (before.y + other.y) / 2 };
      this.by(distance(now) / distance(before), centre);
      this.move(across / 2, down / 2);
    } else {
      this.move(across, down);
    }
    this.pointers.set(event.pointerId, now);
  }
}
