import { render } from "preact";
import { App } from "./app.tsx";
import { connect } from "./session.ts";

render(<App />, document.querySelector("#app")!);
void connect();
