import { AddressSpace } from "./address-space.tsx";
import { AdapterBar } from "./adapter-bar.tsx";
import { BenchPage } from "./bench-page.tsx";
import { onBenchPage } from "./bench-route.ts";
import { Counters } from "./counters.tsx";
import { DropTarget } from "./drop-target.tsx";
import { Events } from "./events.tsx";
import { SidePanel } from "./side-panel.tsx";
import { Throughput } from "./throughput.tsx";
import { Toolbar } from "./toolbar.tsx";
import { TroubleBanner } from "./trouble-banner.tsx";
import { VramView } from "./vram-view.tsx";

/** The workbench: one screen, nothing hidden behind navigation; and the benchmark, a page of its own at `#bench`. */
export function App() {
  if (onBenchPage.value) return <BenchPage />;
  return (
    <DropTarget>
      <Toolbar />
      <TroubleBanner />
      <AdapterBar />
      <Counters />
      <main class="board">
        <div class="column">
          <AddressSpace />
          <VramView />
          <Throughput />
        </div>
        <div class="column side">
          <SidePanel />
          <Events />
        </div>
      </main>
    </DropTarget>
  );
}
